"""`POST /infer`: the hot route, plain ASGI from bytes to bytes."""

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from app import body, headers, images, texts
from app.access import Keys
from app.catalog import ServedModel
from app.errors import Malformed, WrongContentType, milliseconds
from app.gateway import Gateway, Reply
from app.headers import InferHeaders
from app.http_edge import cancel_on_disconnect, header_values, read_body, send_response
from app.schemas import decision_json
from app.settings import Settings
from router.constraints import Constraints
from variants.runtimes import Tensor, Tensors
from variants.spec import ModelSpec

OFF_LOOP_BYTES = 1 << 20
"""Bodies from this size on are decoded on a thread, so that they do not hold up the others."""

ON_LOOP = body.Limits(pixels=1 << 18, characters=1 << 11)
"""So are larger pictures and longer texts than these."""


class InferEndpoint:
    """The ASGI application behind `POST /infer`."""

    def __init__(self, *, gateway: Gateway, keys: Keys, settings: Settings) -> None:
        self._gateway = gateway
        self._keys = keys
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every refusal is raised and becomes a problem document."""
        scope["gearshift.route"] = "/infer"  # for metrics; only FastAPI's routes name themselves
        self._keys.check(header_values(scope, b"authorization"), "infer")
        asked = headers.parse(scope["headers"], max_latency_s=self._settings.max_latency_s)
        content_type = _content_type(scope)
        raw = await read_body(
            scope,
            receive,
            max_bytes=self._settings.max_body_bytes,
            timeout_s=self._settings.body_timeout_s,
        )
        model, inputs = await self._decode(content_type, raw, asked)
        task = asyncio.current_task()
        assert task is not None
        watcher = asyncio.create_task(cancel_on_disconnect(receive, task))
        try:
            reply = await self._gateway.infer(
                model, inputs, asked.constraints, arrival_s=scope["gearshift.arrival_s"]
            )
        except asyncio.CancelledError:
            if not watcher.done():
                raise  # the server is stopping; the caller is still there
            task.uncancel()
            raise ClientDisconnect from None
        finally:
            watcher.cancel()
        await send_response(
            send, 200, _reply_headers(asked, reply), _reply_body(model, asked, reply)
        )

    async def _decode(
        self, content_type: str, raw: bytes, asked: InferHeaders
    ) -> tuple[ServedModel, Tensors]:
        """Decode at once what is small, on a thread what would hold up the others."""
        if len(raw) < OFF_LOOP_BYTES:
            try:
                return self._decode_now(content_type, raw, asked, ON_LOOP)
            except (images.TooManyPixels, texts.TooManyCharacters):
                pass  # so far only the picture's header was read, or nothing
        return await asyncio.to_thread(self._decode_now, content_type, raw, asked, body.MOST)

    def _decode_now(
        self, content_type: str, raw: bytes, asked: InferHeaders, limits: body.Limits
    ) -> tuple[ServedModel, Tensors]:
        if content_type in images.FORMATS:
            if asked.model is None:
                raise Malformed("name the model in the header Infer-Model", field="Infer-Model")
            model = self._gateway.model(asked.model)
            formats = (images.FORMATS[content_type],)
            picture = images.decode(raw, model.spec, formats, max_pixels=limits.pixels)
            return model, {model.spec.inputs[0].name: picture}
        request = body.parse_json(raw)
        name = request.model if request.model is not None else asked.model
        if name is None:
            raise Malformed("name the model in 'model' or in the header Infer-Model", field="model")
        if asked.model is not None and name != asked.model:
            raise Malformed("'model' and the header Infer-Model disagree", field="model")
        model = self._gateway.model(name)
        return model, body.tensors(model.spec, request, tokenizer=model.tokenizer, limits=limits)


def _content_type(scope: Scope) -> str:
    allowed = ("application/json", *images.FORMATS)
    values = header_values(scope, b"content-type")
    found = values[0].partition(";")[0].strip().lower() if len(values) == 1 else ""
    if found not in allowed:
        shown = values[0][:80] if values else "missing"
        raise WrongContentType(f"Content-Type is {shown!r}; taken here: {', '.join(allowed)}")
    return found


def _reply_body(model: ServedModel, asked: InferHeaders, reply: Reply) -> bytes:
    content: dict[str, Any] = {
        "model": model.spec.name,
        "variant": reply.answer.variant.manifest.variant,
        **_results(model.spec, reply.answer.outputs),
    }
    if reply.decision.violated:
        content |= {"degraded": True, "violated": reply.decision.violated}
    if asked.explain:
        content["decision"] = decision_json(reply.decision, id=reply.id)
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _results(spec: ModelSpec, outputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Labels with softmax scores for a classifier that has labels, raw tensors otherwise."""
    if spec.task != "classification" or not spec.labels:
        return {"outputs": {name: np.ascontiguousarray(t) for name, t in outputs.items()}}
    logits = outputs[spec.outputs[0].name].astype(np.float64)
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    best = logits.argmax(axis=1)
    scores = exponent.max(axis=1) / exponent.sum(axis=1)
    return {
        "predictions": [
            {"label": spec.labels[index], "score": float(score)}
            for index, score in zip(best, scores, strict=True)
        ]
    }


def _reply_headers(asked: InferHeaders, reply: Reply) -> dict[str, str]:
    answer, decision, predicted = reply.answer, reply.decision, reply.predicted
    found = {
        "content-type": "application/json",
        "infer-variant": f'"{answer.variant.manifest.variant}"',
        "infer-decision": headers.reply_fields(
            {
                "reason": reply.reason,
                "feasible": decision.feasible_count,
                "considered": decision.considered,
                "id": reply.id,
            }
        ),
        "infer-predicted": headers.reply_fields(
            _known(
                {
                    "latency-ms": milliseconds(predicted.predicted_latency_s),
                    "cost": predicted.cost_usd_per_million,
                    "accuracy": predicted.accuracy,
                }
            )
        ),
        "infer-actual": headers.reply_fields(
            {"latency-ms": reply.total_s * 1000, "cost": reply.cost_usd_per_million}
        ),
        "server-timing": (
            f"queue;dur={answer.queue_s * 1000:.3f}, run;dur={answer.run_s * 1000:.3f}, "
            f"total;dur={reply.total_s * 1000:.3f}"
        ),
    }
    if asked.handling is not None:
        found["preference-applied"] = f"handling={asked.handling}"
    if asked.clamped:
        found["infer-max-latency-ms"] = headers.reply_number(_latency_ms(asked.constraints))
    return {name: value for name, value in found.items() if value}


def _latency_ms(constraints: Constraints) -> float:
    assert constraints.max_latency_s is not None
    return constraints.max_latency_s * 1000


def _known(fields: dict[str, float | None]) -> dict[str, int | float | bool | str]:
    return {name: value for name, value in fields.items() if value is not None}
