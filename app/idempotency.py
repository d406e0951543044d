"""`Idempotency-Key`: an admin's POST that is sent twice is done once.

The first answer is given again for 24 hours, by every gateway on the database and after restarts.
Answers that say "not now" (401, 403, 408, 412, 429, 5xx, and 409 with `Retry-After`) are not kept:
the request may be tried again. Source: draft-ietf-httpapi-idempotency-key-header.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog
from fastapi import Request, Response

from app.access import ROUTES
from app.errors import CONTENT_TYPE, InFlight, KeyReused, Malformed, problem_for
from app.http_edge import header_values
from variants.replies import Replies, Reply

log = structlog.get_logger()

MAX_BODY_BYTES = 256 << 10
RENEW_S = 10.0
REPLAYED = "Idempotency-Replayed"

_NOT_NOW = frozenset({401, 403, 408, 412, 429})
NAME_PATTERN = r'"?([!#-\[\]-~]{1,255})"?'
_NAME = re.compile(NAME_PATTERN)
_KEPT_HEADERS = frozenset({"content-type", "etag", "location", "preference-applied"})


def honoured(method: str, path: str) -> bool:
    """Whether a route, by its path as it was declared, does a request of one name once."""
    return method == "POST" and ROUTES.get((method, path)) == "admin"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One request: what it is found by, what it asks for, and the secret that seals its answer."""

    id: str
    fingerprint: str
    secret: bytes
    request_id: str

    @classmethod
    def of(cls, request: Request, names: Sequence[str], raw: bytes, *, caller: str) -> "Asked":
        """What a request with these `Idempotency-Key` headers and this body asks.

        The secret is made of the key that it was sent with, which is stored nowhere. Raises
        `Malformed`.
        """
        name = _NAME.fullmatch(names[0].strip()) if len(names) == 1 else None
        if name is None:
            raise Malformed(
                "Idempotency-Key is 1 to 255 printable characters without spaces, sent once",
                field="Idempotency-Key",
            )
        target = f"{request.method} {request.scope['path']}"
        query = request.scope["query_string"].decode("latin-1")
        token = " ".join(header_values(request.scope, b"authorization"))
        return cls(
            id=_digest(caller, target, name[1]),
            fingerprint=_digest(target, query, raw.hex()),
            secret=bytes.fromhex(_digest("reply", token, name[1])),
            request_id=request.scope["gearshift.request_id"],
        )


async def once(replies: Replies, asked: Asked, act: Callable[[], Awaitable[Response]]) -> Response:
    """The first answer to this request: of `act`, or as it was given before.

    Raises what `act` raises, `KeyReused` where it was another request, and `InFlight` where that
    one is not answered yet.
    """
    known = await asyncio.to_thread(replies.begin, asked.id, asked.fingerprint, asked.secret)
    match known:
        case Reply():
            return Response(known.body, known.status, {**known.headers, REPLAYED: "true"})
        case "other_request":
            raise KeyReused("the first request with it had another body or query")
        case "unreadable":
            raise KeyReused("the first request with it was sent under another secret of this key")
        case "in_flight":
            raise InFlight("the first request with this Idempotency-Key is not answered yet")
    renewing = asyncio.create_task(_renew(replies, asked.id))
    reply: Reply | None = None
    try:
        response = await act()
        reply = _of_response(response)
        return response
    except Exception as error:
        reply = _of_error(error, asked.request_id)
        raise
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing
        await _settle(replies, asked, reply)


def _of_response(response: Response) -> Reply | None:
    body = getattr(response, "body", None)
    if body is None or len(body) > MAX_BODY_BYTES or not _keeps(response.status_code):
        return None
    headers = {k: v for k, v in response.headers.items() if k in _KEPT_HEADERS}
    return Reply(status=response.status_code, headers=headers, body=bytes(body))


def _of_error(error: Exception, request_id: str) -> Reply | None:
    problem = problem_for(error)
    if not _keeps(problem.status) or "Retry-After" in problem.headers:
        return None
    headers = {"content-type": CONTENT_TYPE, **problem.headers}
    return Reply(status=problem.status, headers=headers, body=problem.body(request_id))


def _keeps(status: int) -> bool:
    return status < 500 and status not in _NOT_NOW


async def _settle(replies: Replies, asked: Asked, reply: Reply | None) -> None:
    """Keep or forget; where the database does not take it, the answer goes out all the same."""
    try:
        if reply is None:
            await asyncio.to_thread(replies.forget, asked.id)
        else:
            await asyncio.to_thread(replies.finish, asked.id, reply, asked.secret)
    except Exception as error:
        log.warning("reply_not_kept", error=str(error))


async def _renew(replies: Replies, id: str) -> None:
    while True:
        await asyncio.sleep(RENEW_S)
        try:
            await asyncio.to_thread(replies.renew, id)
        except Exception as error:  # the database may be locked; there are two more tries
            log.warning("reply_not_renewed", error=str(error))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
