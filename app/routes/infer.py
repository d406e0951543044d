"""`POST /infer` as plain ASGI, from bytes to bytes: what `direct.py` does not take comes here."""

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from app.http_edge import body_chunks, cancel_on_disconnect, header_values, send_response
from app.inference import Inference


class InferEndpoint:
    """The ASGI application behind `POST /infer`."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every refusal is raised and becomes a problem document."""
        scope["gearshift.route"] = "/infer"  # for metrics; only FastAPI's routes name themselves
        inference = self._inference
        head = inference.head(scope["headers"])
        scope["gearshift.lines"] = head.lines
        if head.caller.tenant is not None:
            head.caller.tenant.enter(paid=True)
        settings = inference.settings
        chunks = body_chunks(
            scope, receive, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s
        )
        declared = header_values(scope, b"content-length")
        with inference.room.held() as held:
            if declared and int(declared[0]) <= settings.max_body_bytes:
                held.reserve(int(declared[0]))
            raw = bytearray()
            async for piece in chunks:
                held.reserve(len(raw) + len(piece))
                raw += piece
            whole = bytes(raw)
            call = inference.decode_small(head, whole)
            if call is None:
                call = await inference.decode_large(head, whole)
        task = asyncio.current_task()
        assert task is not None
        watcher = asyncio.create_task(cancel_on_disconnect(receive, task))
        try:
            reply = await inference.gateway.infer(
                call.model,
                call.inputs,
                head.asked.constraints,
                arrival_s=scope["gearshift.arrival_s"],
                caller=head.caller,
                headers=head.headers,
            )
        except asyncio.CancelledError:
            if not watcher.done():
                raise  # the server is stopping; the caller is still there
            task.uncancel()
            raise ClientDisconnect from None
        finally:
            watcher.cancel()
        await send_response(send, 200, *inference.answer(head, call, reply))
