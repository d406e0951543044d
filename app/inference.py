"""One inference request without its transport: what its head, body and answer are.

`routes/infer.py` speaks ASGI and `direct.py` the connection itself; both only move bytes.
"""

import asyncio
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import orjson

from app import binary, body, headers, images, texts
from app.access import Caller
from app.binary import Wanted
from app.catalog import ServedModel
from app.engine.limits import usable_cores
from app.errors import Malformed, WrongContentType
from app.gateway import Gateway, Reply
from app.headers import InferHeaders
from app.keys import Keys
from app.room import Room
from app.schemas import decision_json
from app.settings import Options, Settings
from router.constraints import Constraints
from router.narrow import narrow
from variants.errors import ModelNotFound
from variants.runtimes import Tensor, Tensors
from variants.spec import ModelSpec

JSON = "application/json"
ALLOWED = (JSON, binary.MEDIA_TYPE, *images.FORMATS)
_HEADER_LENGTH = binary.HEADER.lower().encode()

OFF_LOOP_BYTES = 1 << 20
"""Bodies from this size on are decoded on a thread, so that they do not hold up the others."""

ON_LOOP = body.Limits(pixels=1 << 18, characters=1 << 11)
"""So are larger pictures and longer texts than these."""

HEADS = 1024
"""So many heads are remembered at most,"""

HEAD_BYTES = 2048
"""and none that is longer than this."""

RawHeaders = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What the headers of an inference request say, its key checked and its bounds narrowed."""

    caller: Caller
    asked: InferHeaders
    effective: bytes
    """A header line: the bounds that hold and whose they are. Empty where the key has none."""
    headers: tuple[tuple[bytes, bytes], ...]
    """All of them, as they came."""
    content_type: str
    header_bytes: int
    """Length of the description ahead of binary tensors, 0 where there is none."""
    binary: bool
    """Whether the reply's tensors should come as bytes."""

    def lines(self) -> bytes:
        """The reply's headers about what the key allows, as lines; mostly none."""
        return self.effective + self.caller.lines()


class Call(NamedTuple):
    """A decoded request. `wanted` is what the description of binary tensors asks for."""

    model: ServedModel
    inputs: Tensors
    wanted: Wanted | None = None


class Inference:
    """Reads requests and writes answers, as the settings allow."""

    def __init__(self, *, gateway: Gateway, keys: Keys, options: Options) -> None:
        self.gateway = gateway
        self.room = Room(options.now.max_queue_bytes)
        self._options = options
        self._keys = keys
        self._heads: dict[tuple[tuple[bytes, bytes], ...], Head] = {}
        self._heads_version = -1
        self._heads_settings = options.now
        # Their own: others may all wait for the registry.
        self._threads = ThreadPoolExecutor(len(usable_cores()), thread_name_prefix="decode")

    @property
    def settings(self) -> Settings:
        """The options in force."""
        return self._options.now

    def remembered_head(self, raw: tuple[tuple[bytes, bytes], ...]) -> Head:
        """The same as `head`, found at once where the same headers were read before.

        Callers send the same headers again and again. What was found is void as soon as any key
        comes or goes, or an option changes. Looking it up compares hashes under a secret of this
        process, so that its time says nothing about how much of a key was right. Raises as `head`.
        """
        version = self._keys.version
        settings = self._options.now
        if (
            version != self._heads_version
            or settings is not self._heads_settings
            or len(self._heads) >= HEADS
        ):
            self._heads = {}
            self._heads_version = version
            self._heads_settings = settings
        found = self._heads.get(raw)
        if found is None:
            found = self.head(raw)
            if sum(len(name) + len(value) for name, value in raw) <= HEAD_BYTES:
                self._heads[raw] = found
        return found

    def head(self, raw: RawHeaders) -> Head:
        """The head of a request.

        Raises `Unauthenticated`, `Forbidden`, `WrongContentType`, or `Malformed` naming the header.
        """
        authorization: list[str] = []
        content_types: list[bytes] = []
        lengths: list[bytes] = []
        accepted: list[bytes] = []
        for name, value in raw:
            if name == b"authorization":
                authorization.append(value.decode("latin-1"))
            elif name == b"content-type":
                content_types.append(value)
            elif name == b"accept":
                accepted.append(value)
            elif name == _HEADER_LENGTH:
                lengths.append(value)
        caller = self._keys.check(authorization, "infer")
        asked = headers.parse(raw, max_latency_s=self.settings.max_latency_s)
        narrowed = narrow(asked.constraints, caller.terms)
        if narrowed.sides:
            asked = replace(asked, constraints=narrowed.constraints)
        content_type = _content_type(content_types)
        return Head(
            caller=caller,
            asked=asked,
            effective=headers.effective(narrowed),
            headers=tuple(raw),
            content_type=content_type,
            header_bytes=_header_bytes(lengths, content_type),
            binary=any(_accepts_binary(value) for value in accepted),
        )

    def decode_small(self, head: Head, raw: bytes) -> Call | None:
        """`decode`, or None where that would hold up the others and is for a thread."""
        if len(raw) >= OFF_LOOP_BYTES:
            return None
        try:
            return self.decode(head, raw, ON_LOOP)
        except (images.TooManyPixels, texts.TooManyCharacters):
            return None  # so far only the picture's header was read, or nothing

    async def decode_large(self, head: Head, raw: bytes) -> Call:
        """`decode` on a thread, so that it does not hold up the others."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self.decode, head, raw)

    def decode(self, head: Head, raw: bytes, limits: body.Limits = body.MOST) -> Call:
        """The model that is asked and its input tensors.

        Raises `NotFound`, `Malformed`, `TensorMismatch`, and `TooManyPixels` or `TooManyCharacters`
        beyond the limits.
        """
        asked = head.asked
        if head.content_type in images.FORMATS:
            model = self._named(head)
            formats = (images.FORMATS[head.content_type],)
            picture = images.decode(raw, model.spec, formats, max_pixels=limits.pixels)
            return Call(model, {model.spec.inputs[0].name: picture})
        if head.content_type == binary.MEDIA_TYPE:
            model = self._named(head)
            return Call(model, *binary.read(model.spec, raw, head.header_bytes))
        request = body.parse_json(raw)
        if request.model is None:
            if asked.model is None:
                raise Malformed(
                    "name the model in 'model' or in the header Infer-Model", field="model"
                )
            model = self._named(head)
        else:
            if asked.model is not None and request.model != asked.model:
                raise Malformed("'model' and the header Infer-Model disagree", field="model")
            model = self._model(head, request.model)
        return Call(
            model, body.tensors(model.spec, request, tokenizer=model.tokenizer, limits=limits)
        )

    def _named(self, head: Head) -> ServedModel:
        if head.asked.model is None:
            raise Malformed("name the model in the header Infer-Model", field="Infer-Model")
        return self._model(head, head.asked.model)

    def _model(self, head: Head, name: str) -> ServedModel:
        if not head.caller.terms.allows(name):
            raise ModelNotFound(name)  # as if there were none
        return self.gateway.model(name)

    def answer(self, head: Head, call: Call, reply: Reply) -> tuple[bytes, bytes]:
        """Header lines, all but the length, and body of the answer."""
        lines = _lines(head.asked, reply)
        if head.binary or call.wanted is not None:
            outputs = _outputs(head, call, reply)
            if any(as_bytes for _, as_bytes in outputs.values()):
                content, header_bytes = binary.write(_described(head, call, reply), outputs)
                lines += f"content-type: {binary.MEDIA_TYPE}\r\n{binary.HEADER.lower()}: "
                lines += f"{header_bytes}\r\n"
                return lines.encode(), content
        lines += "content-type: application/json\r\n"
        return lines.encode(), _json(call, head.asked, reply)


def _content_type(values: list[bytes]) -> str:
    if values == [b"application/json"]:
        return JSON
    found = ""
    if len(values) == 1:
        found = values[0].decode("latin-1").partition(";")[0].strip().lower()
    if found not in ALLOWED:
        shown = values[0][:80].decode("latin-1") if values else "missing"
        raise WrongContentType(f"Content-Type is {shown!r}; taken here: {', '.join(ALLOWED)}")
    return found


def _header_bytes(values: list[bytes], content_type: str) -> int:
    if not values:
        return 0
    if len(values) > 1 or content_type != binary.MEDIA_TYPE:
        raise Malformed(
            f"{binary.HEADER} comes once, and with {binary.MEDIA_TYPE}", field=binary.HEADER
        )
    if not values[0].isdigit() or len(values[0]) > 12:
        shown = values[0][:80].decode("latin-1")
        raise Malformed(f"{binary.HEADER}: {shown!r} is no length", field=binary.HEADER)
    return int(values[0])


def _accepts_binary(value: bytes) -> bool:
    """Whether an `Accept` header names raw bytes; preferences among several are not weighed."""
    return any(
        part.partition(b";")[0].strip().lower() == binary.MEDIA_TYPE.encode()
        for part in value.split(b",")
    )


def _outputs(head: Head, call: Call, reply: Reply) -> dict[str, tuple[Tensor, bool]]:
    """The outputs that were asked for, in the model's order, each with whether it goes as bytes."""
    wanted = call.wanted or Wanted()
    default = head.binary or wanted.binary
    found = {}
    for spec in call.model.spec.outputs:
        if wanted.outputs is None or spec.name in wanted.outputs:
            as_bytes = None if wanted.outputs is None else wanted.outputs[spec.name]
            tensor = reply.answer.outputs[spec.name]
            found[spec.name] = (tensor, default if as_bytes is None else as_bytes)
    return found


def _described(head: Head, call: Call, reply: Reply) -> dict[str, Any]:
    """What the description ahead of binary outputs says besides."""
    content: dict[str, Any] = {
        "model_name": call.model.spec.name,
        "model_version": reply.answer.variant.manifest.variant,
    }
    if call.wanted is not None and call.wanted.id is not None:
        content["id"] = call.wanted.id
    if reply.decision.violated:
        content["parameters"] = {"degraded": True, "violated": ",".join(reply.decision.violated)}
    if head.asked.explain:
        content["decision"] = decision_json(reply.decision, id=reply.id)
    return content


def _json(call: Call, asked: InferHeaders, reply: Reply) -> bytes:
    content: dict[str, Any] = {
        "model": call.model.spec.name,
        "variant": reply.answer.variant.manifest.variant,
        **_results(call, reply.answer.outputs),
    }
    if reply.cascade is not None:
        content["cascade"] = _cascade(reply)
    if reply.decision.violated:
        content |= {"degraded": True, "violated": reply.decision.violated}
    if asked.explain:
        content["decision"] = decision_json(reply.decision, id=reply.id)
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _results(call: Call, outputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Labels with softmax scores for a classifier that has labels, raw tensors otherwise."""
    spec = call.model.spec
    if call.wanted is not None and call.wanted.outputs is not None:
        outputs = {name: outputs[name] for name in call.wanted.outputs}
    elif spec.task == "classification" and spec.labels:
        return {"predictions": _predictions(spec, outputs)}
    return {"outputs": {name: np.ascontiguousarray(t) for name, t in outputs.items()}}


def _predictions(spec: ModelSpec, outputs: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    logits = outputs[spec.outputs[0].name].astype(np.float64)
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    best = logits.argmax(axis=1)
    scores = exponent.max(axis=1) / exponent.sum(axis=1)
    return [
        {"label": spec.labels[index], "score": float(score)}
        for index, score in zip(best, scores, strict=True)
    ]


def _lines(asked: InferHeaders, reply: Reply) -> str:
    """The reply's own headers, as lines; structured fields (RFC 9651). Names, reasons and ids need
    no quoting but quotes."""
    answer, decision, number = reply.answer, reply.decision, headers.reply_number
    total_ms = number(reply.total_s * 1e3)
    lines = (
        f'infer-variant: "{answer.variant.manifest.variant}"\r\n'
        f"infer-decision: reason={reply.reason}, feasible={decision.feasible_count}, "
        f'considered={decision.considered}, id="{reply.id}"\r\n'
        f"infer-actual: latency-ms={total_ms}, cost={number(reply.cost_usd_per_million)}\r\n"
        f"server-timing: queue;dur={answer.queue_s * 1e3:.3f}, "
        f"run;dur={answer.run_s * 1e3:.3f}, total;dur={total_ms}\r\n"
    )
    if told := headers.promised(reply.predicted):
        lines += f"infer-predicted: {told}\r\n"
    if asked.constraints.cascade:
        lines += f"infer-cascade: {_cascade_value(reply)}\r\n"
    if asked.handling is not None:
        lines += f"preference-applied: handling={asked.handling}\r\n"
    if asked.clamped:
        lines += f"infer-max-latency-ms: {_latency_ms(asked.constraints)}\r\n"
    return lines


def _cascade(reply: Reply) -> dict[str, Any]:
    """Which variants ran, and for how many rows."""
    assert reply.cascade is not None
    parts, unsure = reply.answer.parts, reply.answer.unsure_rows
    return {
        "first": reply.cascade.first,
        "then": reply.cascade.then,
        "threshold": reply.cascade.threshold,
        "unsure_rows": unsure,
        "escalated_rows": unsure if len(parts) > 1 else 0,
    }


def _cascade_value(reply: Reply) -> str:
    if reply.cascade is None:
        return "?0"
    told = _cascade(reply)
    return (
        f'?1;first="{told["first"]}";then="{told["then"]}"'
        f";unsure={told['unsure_rows']};escalated={told['escalated_rows']}"
    )


def _latency_ms(constraints: Constraints) -> str:
    assert constraints.max_latency_s is not None
    return headers.reply_number(constraints.max_latency_s * 1000)
