"""Control routes: the key is checked and the body bounded before FastAPI looks at either."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Message

from app import body, idempotency, preconditions
from app.access import INNER, ROUTES, Caller
from app.errors import WrongContentType
from app.http_edge import header_values, read_body
from app.preconditions import Handle
from app.services import services
from variants.errors import ModelNotFound, NotFound, VariantNotFound

MAX_BYTES = 1 << 20
"""Largest JSON body of a control route."""


class GuardedRoute(APIRoute):
    """A route that answers only callers with the scope that the access table asks for.

    A body must be JSON, strict as that of `/infer`, and of at most `MAX_BYTES`.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler behind the checks."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            parts = services(request)
            method = "GET" if request.method == "HEAD" else request.method
            need = ROUTES[method, self.path]
            if need in INNER and parts.settings.admin_port not in (
                None,
                request.scope["server"][1],
            ):
                raise HTTPException(404)  # it is on the listener for admins
            keys = header_values(request.scope, b"authorization")
            caller = request.state.caller = parts.keys.check(keys, need)
            if caller.tenant is not None:
                request.scope["gearshift.lines"] = caller.tenant.lines
                caller.tenant.enter()
            _check_names(request.path_params)
            _check_allowed(caller, request.path_params)
            raw = b""
            if self.body_field is not None:
                raw = await _json(request, parts.settings.body_timeout_s)
                request = Request(request.scope, _replay(raw))
            preconditions.check(request)
            return await self._once(request, raw, preconditions.conditional(handle, self.path))

        return guarded

    async def _once(self, request: Request, raw: bytes, handle: Handle) -> Response:
        """Answer an admin's POST that was sent before as it was answered then."""
        name = header_values(request.scope, b"idempotency-key")
        if not name or not idempotency.honoured(request.method, self.path):
            return await handle(request)
        parts = services(request)
        asked = idempotency.Asked.of(request, name, raw, caller=request.state.caller.id)
        return await idempotency.once(parts.replies, asked, lambda: handle(request))


def _check_names(named: Mapping[str, Any]) -> None:
    """Raise `NotFound` for a name with a NUL character: PostgreSQL cannot even be asked for it."""
    for kind, name in named.items():
        if "\0" in name:
            raise NotFound(f"no {kind} {name[:80]!r}")


def _check_allowed(caller: Caller, named: Mapping[str, Any]) -> None:
    """Raise `NotFound` for what the key must not know of, in the words for what is not there."""
    model, variant = named.get("model"), named.get("variant")
    if model is None:
        return
    if not caller.terms.allows(model):
        raise ModelNotFound(model)
    if variant is not None and not caller.terms.allows(model, variant):
        raise VariantNotFound(model, variant)


async def _json(request: Request, timeout_s: float) -> bytes:
    found = header_values(request.scope, b"content-type")
    if len(found) != 1 or found[0].partition(";")[0].strip().lower() != "application/json":
        raise WrongContentType("send the body with Content-Type: application/json")
    raw = await read_body(request.scope, request.receive, max_bytes=MAX_BYTES, timeout_s=timeout_s)
    body.strict(raw)
    return raw


def _replay(raw: bytes) -> Callable[[], Awaitable[Message]]:
    async def receive() -> Message:
        return {"type": "http.request", "body": raw, "more_body": False}

    return receive
