"""uvicorn's HTTP protocol with deadlines and a size limit for what comes before and after a body.

uvicorn itself waits for ever for the rest of a head, buffers one of any size, adds trailers to the
headers of a request that is being served, loses the body of one that offers an upgrade, and
answers what is not HTTP in plain text. It also sets and cancels two timers for every request; here
there is one for a connection that rests, and one for a head only where it comes in pieces.

Plain requests to `/infer` are answered here, by `direct.py`; all others by the ASGI application.
"""

import asyncio
import re
import socket
from dataclasses import replace
from typing import Any, NamedTuple

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from app.direct import Direct, Exchange, Known
from app.errors import CONTENT_TYPE, Problem
from app.http_edge import SECURITY

MAX_HEAD_BYTES = 64 << 10
JOINED_BYTES = 64 << 10
"""Smaller bodies are joined to their heads, so that both leave in one packet."""

SLICE_BYTES = 16 << 10
"""The parser is fed in slices of this size, to see whether it gets anywhere with each."""

GONE_S = 0.01
"""A caller that ended its side is first looked for after this, then ever less often."""

TAKEN_BYTES = 64 << 10
"""Whoever does not take in so much of its answer, or what is left of it, in time is left."""

LEARNT_HEADS = 8
"""A caller whose heads all differ is not worth remembering more of."""

LENGTH_DIGITS = 20
"""As many as 64 bits need. The parser takes any number of zeros before them."""

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})\r\n", re.IGNORECASE)

CLOSE = (b"connection", b"close")
"""Among the headers of every answer while the server leaves."""

_OFFER = (b"connection", b"upgrade", b"http2-settings")

_BAD_REQUEST = Problem(
    status=400, code="malformed", title="This is not HTTP", detail="The request cannot be parsed."
)
_LONG_LENGTH = replace(_BAD_REQUEST, detail=f"Content-Length may have {LENGTH_DIGITS} digits.")
_HOSTS = replace(_BAD_REQUEST, detail="A request has one Host header (RFC 9112, section 3.2).")
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
    detail="Send the whole head at once.",
)
_REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


class _Template(NamedTuple):
    """The bytes of a plain head before and after the digits of its length."""

    before: bytes
    after: bytes
    known: Known


class _Backlog(NamedTuple):
    """What a caller has not taken in, and since when it has taken too little of it."""

    since_s: float
    size_bytes: int


class LimitedProtocol(HttpToolsProtocol):
    """Closes connections whose request head is too large, too slow or not HTTP.

    `head_timeout_s` is also how long a caller may go on sending a body that was refused.
    """

    head_timeout_s = 10.0
    direct: Direct | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._exchange: Exchange | None = None
        self._running: RequestResponseCycle | None = None
        self._reading: Exchange | None = None
        self._template: _Template | None = None
        self._learnt = 0
        self._resting_since_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._collected_bytes = 0
        self._progress = False
        self._in_head = True
        self._in_message = False
        self._refused = False
        self._default: list[tuple[bytes, bytes]] | None = None
        self._lines = b""
        self._leaving = False
        self._backlog: _Backlog | None = None
        self._half_closed = False

    # From the transport

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request head."""
        super().connection_made(transport)
        self._wait(_HEAD_TOO_SLOW)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines, and give up what was asked for."""
        self._stop_waiting()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        if self._exchange is not None:
            self._exchange.set()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # True: the other side stays open
        """The caller sends nothing more: it gets what it asked for, unless it has gone altogether.

        The two look alike until something is sent that a caller who has gone refuses; so an interim
        answer is (RFC 9110, section 15.2), which HTTP/1.0 does not know.
        """
        cycle = self.cycle
        if self._half_closed:
            return True
        if self._refused or cycle is None or cycle.response_complete or cycle.more_body:
            return False
        if self.parser.get_http_version() != "1.1":
            return False
        self._half_closed = True
        cycle.keep_alive = False
        if not self.pipeline and not cycle.response_started:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._look_again(GONE_S)
        return True

    def _look_again(self, wait_s: float) -> None:
        self.loop.call_later(wait_s, self._look_whether_gone, wait_s)

    def _look_whether_gone(self, waited_s: float) -> None:
        """Nothing is read any more, so the system must be asked what came back."""
        if self.transport.is_closing():
            return
        with self.transport.get_extra_info("socket").dup() as copy:
            gone = copy.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        if gone:
            self.transport.abort()
        else:
            self._look_again(min(1.0, 2 * waited_s))

    def data_received(self, data: bytes) -> None:
        """Feed the parser; what it only collects (a name, a value, an extension) is bounded."""
        self._resting_since_s = None
        if self._template is not None and not self._in_message and self._repeats(data):
            return
        begins = self.direct is not None and not self._in_message
        in_body = self._reading is not None and not self._in_head and self._in_message
        step = len(data) if in_body else SLICE_BYTES
        for start in range(0, len(data), step):
            if self._refused:
                return
            piece = data[start : start + step] if len(data) > step else data
            self._progress = False
            self._feed(piece)
            self._collected_bytes = 0 if self._progress else self._collected_bytes + len(piece)
            if self._collected_bytes > MAX_HEAD_BYTES:
                self._refuse(_HEAD_TOO_LARGE)
        if self._in_message and not self._refused:
            if self._reading is not None:
                self._reading.wait()
            elif self._in_head and self._timer is None:
                self._wait(_HEAD_TOO_SLOW)
        elif begins and self._reading is not None and self._learnt < LEARNT_HEADS:
            self._learn(data, self._reading)

    def _learn(self, data: bytes, exchange: Exchange) -> None:
        """Remember a head that came whole with its body: the caller's next ones will be alike."""
        self._learnt += 1
        end = data.find(b"\r\n\r\n") + 4
        found = _LENGTH.search(data, 0, end)
        if found is None or not exchange.keep_alive or len(data) != end + int(found[1]):
            return
        self._template = _Template(data[: found.start(1)], data[found.end(1) : end], exchange.known)

    def _repeats(self, data: bytes) -> bool:
        """Whether this is one whole request with the head as remembered, but for the length.

        Then there is nothing to parse, and it is served here.
        """
        template, direct = self._template, self.direct
        assert template is not None and direct is not None
        if not data.startswith(template.before) or not self._is_free():
            return False
        at = len(template.before)
        end = data.find(b"\r", at, at + 12)
        digits = data[at:end]
        start = end + len(template.after)
        if end < 0 or not digits.isdigit() or not data.startswith(template.after, end):
            return False
        if len(data) - start != int(digits):
            return False
        exchange = direct.again(self, template.known, len(data) - start)
        if exchange is None:
            return False
        self._stop_waiting()
        self._exchange = self._reading = exchange
        self.cycle = exchange  # type: ignore[assignment]  # it stands for uvicorn's own
        exchange.feed(data[start:])
        exchange.run()
        return True

    def _is_free(self) -> bool:
        """Whether nothing that came before is still to be answered."""
        if self._refused or self.pipeline or self.flow.write_paused:
            return False
        return self.cycle is None or self.cycle.response_complete

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(_BAD_REQUEST)

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read the request as if it had not offered another protocol, such as `h2c`.

        The parser stops after such a head, whatever follows; so it is fed the head once more,
        without the offer.
        """
        method = self.parser.get_method()
        if self._refused or method == b"CONNECT":
            self._refuse(_BAD_REQUEST)
            return
        lines = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] not in _OFFER]
        self.parser = httptools.HttpRequestParser(self)
        self._feed(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def resume_writing(self) -> None:
        """The caller has taken in nearly all."""
        self._backlog = None
        super().resume_writing()

    # From the server

    def look(self, limit_s: float) -> None:
        """Leave a caller that took in too little of its answer for this long; called often."""
        size, now_s, known = self.transport.get_write_buffer_size(), self.loop.time(), self._backlog
        if size == 0:
            self._backlog = None
        elif known is None or size <= known.size_bytes - TAKEN_BYTES:
            self._backlog = _Backlog(now_s, size)
        elif now_s - known.since_s > limit_s:
            self.transport.abort()
        elif size > known.size_bytes:
            self._backlog = _Backlog(known.since_s, size)

    def give_up(self) -> None:
        """The server ends: refuse what is still on its way, and leave who takes no answer."""
        if self.flow.write_paused:
            self.transport.abort()
        elif self._exchange is not None:
            self._exchange.give_up()

    # From the parser

    def on_message_begin(self) -> None:
        """Another request begins on this connection."""
        self._reading = None
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._head_bytes = 0
        self._progress = self._in_head = self._in_message = True

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is dropped."""
        self._progress = True
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_HEAD_TOO_LARGE)
        if self._in_head:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is here; one that is too large is not served."""
        self._in_head = False
        self._progress = True
        self._stop_waiting()
        if self._refused or self.parser.should_upgrade():
            return
        if (fault := self._fault()) is not None:
            self._refuse(fault)
            return
        if self.url == b"/infer" and self._begin_directly():
            return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes the scope, and these anew
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()

    def _fault(self) -> Problem | None:
        """What is wrong with a head that the parser takes."""
        hosts = 0
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"content-length" and len(value) > LENGTH_DIGITS:
                return _LONG_LENGTH
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            return _HOSTS
        return None

    def _begin_directly(self) -> bool:
        """Whether the request is answered here, without ASGI; never before those ahead of it."""
        if self.direct is None or not self._is_free():
            return False
        if self.parser.get_method() != b"POST" or self.parser.get_http_version() != "1.1":
            return False
        exchange = self.direct.begin(self, self.headers)
        if exchange is None:
            return False
        exchange.keep_alive = self.parser.should_keep_alive()
        self._exchange = self._reading = exchange
        self.cycle = exchange  # type: ignore[assignment]  # it stands for uvicorn's own
        exchange.begin()
        return True

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._progress = True
        if self._refused:
            return
        if self._reading is not None:
            self._reading.feed(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is here."""
        self._in_message = False
        self._progress = True
        self._stop_waiting()
        if self._refused or self.parser.should_upgrade():
            return
        if self._reading is not None:
            self._reading.run()
        else:
            super().on_message_complete()

    # From the response

    def on_response_complete(self) -> None:
        """The answer is written. A body that goes on after it may do so only for a while."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._resting_since_s = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._rest(self.timeout_keep_alive)
        if self._in_message and self._timer is None:
            self._wait(None)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Remember what is being answered: uvicorn knows only what came last."""
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that has rested for long enough."""
        self.timeout_keep_alive_task = None
        if self._resting_since_s is None:
            return  # a request is being served; the timer is set again after it
        left_s = self._resting_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._rest(left_s)
        else:
            super().timeout_keep_alive_handler()

    def _rest(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def _unset_keepalive_if_required(self) -> None:
        """Nothing to do: the timer looks whether the connection rests when it fires."""

    def write_answer(self, exchange: Exchange, status: int, lines: bytes, body: bytes) -> None:
        """Write a whole answer, and go on with the next request."""
        if self.transport.is_closing():
            return
        head = b"%b%b%b%bcontent-length: %d\r\nx-request-id: %b\r\n\r\n" % (
            STATUS_LINE[status],
            self._default_lines(),
            lines,
            b"" if exchange.keep_alive or self._leaving else b"connection: close\r\n",
            len(body),
            exchange.request_id.encode(),
        )
        if len(body) < JOINED_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.writelines([head, body])
        if self._leaving or not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _default_lines(self) -> bytes:
        """The headers of every answer. uvicorn makes a new list of them once a second."""
        default = self.server_state.default_headers
        if default is not self._default:
            self._default = default
            self._leaving = CLOSE in default
            self._lines = b"".join([b"%b: %b\r\n" % header for header in default])
        return self._lines

    def _count(self, size: int) -> None:
        self._progress = True
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_HEAD_TOO_LARGE)

    def _wait(self, problem: Problem | None) -> None:
        self._timer = self.loop.call_later(self.head_timeout_s, self._refuse, problem)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, problem: Problem | None) -> None:
        """Answer with a problem and close; what came whole before this is answered first."""
        self._stop_waiting()
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:
                cycle.keep_alive = False
                return
            if cycle.response_started:
                problem = None
        if problem is not None:
            self.transport.write(_answer(problem))
        self.transport.close()


def limited(head_timeout_s: float, direct: Direct) -> type[LimitedProtocol]:
    """The protocol class with this deadline, as uvicorn's configuration takes it."""
    own = {"head_timeout_s": head_timeout_s, "direct": direct}
    return type("Protocol", (LimitedProtocol,), own)


def _answer(problem: Problem) -> bytes:
    body = problem.body("-")
    head = (
        f"HTTP/1.1 {problem.status} {_REASONS[problem.status]}\r\n"
        f"content-type: {CONTENT_TYPE}\r\ncontent-length: {len(body)}\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in SECURITY)
        + "connection: close\r\n\r\n"
    )
    return head.encode() + body
