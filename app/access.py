"""Who may do what: callers, scopes, and the one table from routes to scopes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from starlette.routing import compile_path

from app.tenant import Tenant
from variants.terms import UNLIMITED, Terms

Scope = Literal["infer", "read", "admin", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
Need = Scope | Literal["any", "public"]
"""A scope; or any valid key; or no key at all."""

INNER: frozenset[Need] = frozenset({"read", "admin", "metrics"})
"""What only the listener for admins serves, where there is one (option `admin_port`)."""

ROUTES: Mapping[tuple[str, str], Need] = {
    ("POST", "/infer"): "infer",
    ("POST", "/v1/route"): "infer",
    ("GET", "/v1/decisions/{id}"): "read",
    ("GET", "/v1/models"): "read",
    ("GET", "/v1/models/{model}"): "read",
    ("GET", "/v1/models/{model}/variants"): "read",
    ("GET", "/v1/models/{model}/variants/{variant}"): "read",
    ("GET", "/v1/models/{model}/variants/{variant}/history"): "read",
    ("POST", "/v1/models/{model}/variants"): "admin",
    ("GET", "/v1/models/{model}/variants/{variant}/events"): "read",
    ("POST", "/v1/models/{model}/variants/{variant}/activate"): "admin",
    ("POST", "/v1/models/{model}/variants/{variant}/shadow"): "admin",
    ("POST", "/v1/models/{model}/variants/{variant}/canary"): "admin",
    ("POST", "/v1/models/{model}/variants/{variant}/deactivate"): "admin",
    ("POST", "/v1/models/{model}/variants/{variant}/retire"): "admin",
    ("PUT", "/v1/models/{model}/reference"): "admin",
    ("GET", "/v1/blobs/{digest}"): "admin",
    ("PUT", "/v1/blobs/{digest}"): "admin",
    ("PATCH", "/v1/blobs/{digest}"): "admin",
    ("DELETE", "/v1/blobs/{digest}"): "admin",
    ("GET", "/v1/audit"): "admin",
    ("GET", "/v1/keys"): "admin",
    ("POST", "/v1/keys"): "admin",
    ("POST", "/v1/keys/{id}/rotate"): "admin",
    ("GET", "/v1/keys/{id}/usage"): "admin",
    ("DELETE", "/v1/keys/{id}"): "admin",
    ("GET", "/v1/usage"): "any",
    ("GET", "/metrics"): "metrics",
    ("GET", "/healthz"): "public",
    ("GET", "/readyz"): "public",
    ("GET", "/openapi.json"): "public",
}
"""What each route needs. A route that is not here cannot be added to the app."""


def methods_at(path: str) -> list[str]:
    """The methods that a request path takes."""
    return sorted(method for method, route in ROUTES if compile_path(route)[0].match(path))


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who sent a request. `name` goes into histories; it is never a secret.

    `terms` is what the key allows; `tenant` counts what it uses, and is None without a key.
    """

    id: str
    name: str
    scopes: frozenset[str]
    terms: Terms = UNLIMITED
    tenant: Tenant | None = None

    def lines(self) -> bytes:
        """The reply's headers about the rate, as lines."""
        return b"" if self.tenant is None else self.tenant.lines()


ANYONE = Caller(id="-", name="anyone", scopes=frozenset(SCOPES))
"""The caller of a loopback gateway that asks for no keys."""
