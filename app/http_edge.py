"""Pure ASGI pieces around every route: request ids, limits, metrics, bodies and disconnects."""

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.engine.refusals import Draining
from app.errors import (
    CONTENT_TYPE,
    BodyTimeout,
    Problem,
    TooLarge,
    WrongContentType,
    problem_for,
)
from app.metrics import Metrics

log = structlog.get_logger()

MAX_HEADERS = 100

SECURITY = (
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "default-src 'self'; frame-ancestors 'none'"),
    ("referrer-policy", "no-referrer"),
)
"""On every answer: what browsers must not do with it (no guessing, no framing, no foreign code)."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~-]{1,128}")


class Edge:
    """Gives each request an id, refuses header floods, and counts and times every reply.

    A caller that leaves (`ClientDisconnect` from anywhere below) is counted, and is no error. What
    the server cancels because it ends is answered with 503 `draining`.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, ids: "RequestIds") -> None:
        self._app = app
        self._metrics = metrics
        self._ids = ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event; only HTTP is touched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        request_id = self._ids.of(scope["headers"])
        scope["gearshift.arrival_s"] = start
        scope["gearshift.request_id"] = request_id
        status = 499  # the caller left before a reply began

        async def reply(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _completed(scope, message["headers"], request_id)
            await send(message)

        self._metrics.inflight(+1)
        try:
            if len(scope["headers"]) > MAX_HEADERS:
                await send_problem(scope, reply, too_many_headers(len(scope["headers"])))
            else:
                await self._app(scope, receive, reply)
        except ClientDisconnect:
            self._metrics.client_closed()
        except asyncio.CancelledError:
            if status == 499:  # what has begun is cut off: it must not look whole
                await send_problem(scope, reply, problem_for(Draining()))
        except Exception:
            status = 500  # the error handler outside answers
            raise
        finally:
            self._metrics.inflight(-1)
            self._metrics.http(
                _template(scope),
                scope["method"] if scope["method"] in METHODS else "_other_",
                status,
                scope.get("gearshift.code", "ok" if status < 400 else "none"),
                time.monotonic() - start,
            )


def _completed(
    scope: Scope, given: Iterable[tuple[bytes, bytes]], request_id: str
) -> list[tuple[bytes, bytes]]:
    """The headers with the request's id, what the key allows, and `no-store` by default.

    `gearshift.lines` in the scope gives the header lines about the key.
    """
    headers = [*given, (b"x-request-id", request_id.encode())]
    if all(name != b"cache-control" for name, _ in headers):
        headers.append((b"cache-control", b"no-store"))
    if (lines := scope.get("gearshift.lines")) is not None:
        headers += _pairs(lines())
    return headers


class RequestIds:
    """What each request is called: as its caller says, or by a number of ours."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._count = 0

    def of(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The id of a request with these headers."""
        for name, value in headers:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                return str(value, "ascii")
        self._count += 1
        return f"{self._prefix}-r{self._count:x}"


def _template(scope: Scope) -> str:
    """The route's path as it was declared; FastAPI's routes name themselves."""
    named = scope.get("gearshift.route", "_unmatched_")
    return str(getattr(scope.get("route"), "path", named))


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


def too_many_headers(count: int) -> Problem:
    """The refusal of a header flood (RFC 6585, section 5)."""
    return Problem(
        status=431,
        code="too-many-headers",
        title="Too many headers",
        detail=f"{count} headers; at most {MAX_HEADERS} are taken.",
    )


async def send_problem(scope: Scope, send: Send, problem: Problem) -> None:
    """Answer with a problem document."""
    scope["gearshift.code"] = problem.code
    body = problem.body(scope["gearshift.request_id"])
    await send_response(send, problem.status, problem_lines(problem), body)


def problem_lines(problem: Problem) -> bytes:
    """A refusal's header lines, names in lower case."""
    given = {"content-type": CONTENT_TYPE, **problem.headers}
    lines = [f"{name.lower()}: {value}\r\n" for name, value in given.items()]
    return "".join(lines).encode("latin-1")


async def send_response(send: Send, status: int, lines: bytes, body: bytes) -> None:
    """Answer in one piece, with these header lines and the length."""
    raw = _pairs(lines)
    raw.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _pairs(lines: bytes) -> list[tuple[bytes, bytes]]:
    found = (line.partition(b": ") for line in lines.split(b"\r\n") if line)
    return [(name, value) for name, _, value in found]


def header_values(scope: Scope, name: bytes) -> list[str]:
    """Every value of a header, in order."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


async def body_chunks(
    scope: Scope,
    receive: Receive,
    *,
    max_bytes: int,
    timeout_s: float,
    pause_s: float | None = None,
    least_bytes_per_s: float = math.inf,
) -> AsyncIterator[bytes]:
    """The body as it arrives.

    Raises `WrongContentType` for a compressed body, `TooLarge` beyond `max_bytes` (at once where
    the length is declared), `BodyTimeout` after a pause of `pause_s` or after `timeout_s`, to which
    what has come adds time at the least pace, and `ClientDisconnect` if the caller goes.
    """
    if any(v.lower() != "identity" for v in header_values(scope, b"content-encoding")):
        raise WrongContentType("send the body without Content-Encoding")
    declared = header_values(scope, b"content-length")
    if declared and int(declared[0]) > max_bytes:
        raise TooLarge(f"the body has {declared[0]} bytes; at most {max_bytes} are taken")
    size = 0
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    more = True
    while more:
        end_s = begun_s + timeout_s + size / least_bytes_per_s
        until_s = end_s if pause_s is None else min(end_s, loop.time() + pause_s)
        try:
            async with asyncio.timeout_at(until_s):
                message = await receive()
        except TimeoutError:
            if until_s < end_s:
                raise BodyTimeout(f"nothing of the body came for {pause_s:g} s") from None
            raise BodyTimeout(f"the body did not end within {end_s - begun_s:.3g} s") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise TooLarge(f"the body has more than {max_bytes} bytes")
        yield chunk
        more = message.get("more_body", False)


async def read_body(scope: Scope, receive: Receive, *, max_bytes: int, timeout_s: float) -> bytes:
    """The whole body. Raises as `body_chunks`."""
    chunks = [
        c async for c in body_chunks(scope, receive, max_bytes=max_bytes, timeout_s=timeout_s)
    ]
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def cancel_on_disconnect(receive: Receive, task: "asyncio.Task[Any]") -> None:
    """Cancel the task when the caller leaves; run it beside the task, after the body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()
