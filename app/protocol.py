"""uvicorn's HTTP protocol with a deadline and a size limit for the request head.

uvicorn itself waits for ever for the rest of a head and buffers one of any size; and it answers
what is not HTTP in plain text.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.errors import CONTENT_TYPE, Problem

MAX_HEAD_BYTES = 64 << 10
HEAD_TIMEOUT_S = 10.0

_BAD_REQUEST = Problem(
    status=400, code="malformed", title="This is not HTTP", detail="The request cannot be parsed."
)
_HEAD_TOO_LARGE = Problem(
    status=431,
    code="headers-too-large",
    title="The headers are too large",
    detail=f"The request head may have {MAX_HEAD_BYTES} bytes.",
)
_HEAD_TOO_SLOW = Problem(
    status=408,
    code="head-timeout",
    title="The request head did not arrive in time",
    detail=f"The head must arrive within {HEAD_TIMEOUT_S:g} s.",
)
_REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


class LimitedProtocol(HttpToolsProtocol):
    """Closes connections whose request head is too large, too slow or not HTTP."""

    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request head."""
        super().connection_made(transport)
        self._begin_head()

    def on_message_begin(self) -> None:
        """Another head begins on this connection."""
        super().on_message_begin()
        if self._head_timer is None:
            self._begin_head()

    def data_received(self, data: bytes) -> None:
        """Feed the parser and count what belongs to an unfinished head."""
        super().data_received(data)
        if self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(_HEAD_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """The head is here."""
        self._end_head()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._end_head()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP with a problem document."""
        del msg
        self._refuse(_BAD_REQUEST)

    def _begin_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._refuse, _HEAD_TOO_SLOW)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, problem: Problem) -> None:
        self._end_head()
        if self.transport.is_closing():
            return
        body = problem.body("-")
        head = (
            f"HTTP/1.1 {problem.status} {_REASONS[problem.status]}\r\n"
            f"content-type: {CONTENT_TYPE}\r\ncontent-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
