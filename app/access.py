"""Who may do what: keys, scopes, and the one table from routes to scopes.

A key is `gs_<id>_<secret>`; only HMAC-SHA-256(pepper, secret) is stored. The pepper is a random
file beside the registry that no backup of the registry contains.
"""

import contextlib
import hmac
import os
import secrets
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from starlette.routing import compile_path

from app.errors import Forbidden, Unauthenticated
from variants.errors import Conflict, Invalid
from variants.key_table import KeyRecord, KeyTable

Scope = Literal["infer", "read", "admin", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PEPPER_BYTES = 32
Need = Scope | Literal["public"]

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
    ("POST", "/v1/models/{model}/variants/{variant}/activate"): "admin",
    ("POST", "/v1/models/{model}/variants/{variant}/deactivate"): "admin",
    ("PUT", "/v1/models/{model}/reference"): "admin",
    ("PUT", "/v1/blobs/{digest}"): "admin",
    ("GET", "/v1/audit"): "admin",
    ("GET", "/v1/keys"): "admin",
    ("POST", "/v1/keys"): "admin",
    ("DELETE", "/v1/keys/{id}"): "admin",
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
    """Who sent a request. `name` goes into histories; it is never a secret."""

    id: str
    name: str
    scopes: frozenset[str]


ANYONE = Caller(id="-", name="anyone", scopes=frozenset(SCOPES))
"""The caller of a loopback gateway that asks for no keys."""


class Keys:
    """The valid keys in memory, and the check against them.

    `version` grows whenever a key comes or goes: what was found out under another one is void.
    """

    def __init__(self, keys: KeyTable, pepper: bytes, *, required: bool) -> None:
        self._keys = keys
        self._pepper = pepper
        self._required = required
        self._valid: dict[str, KeyRecord] = {}
        self._changing = threading.RLock()
        self.version = 0

    def refresh(self) -> None:
        """Read the keys again, so that those made or revoked elsewhere count."""
        with self._changing:  # or an older reading could overwrite a newer one
            keys = self._keys.all()
            valid = {key.id: key for key in keys if key.revoked_at is None}
            if valid != self._valid:
                self._valid = valid
                self.version += 1

    def create(self, name: str, scopes: frozenset[str], *, actor: str) -> str:
        """Make a key and return it; it cannot be shown again."""
        id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        self._keys.add(id=id, name=name, secret_hmac=self._hmac(secret), scopes=scopes, actor=actor)
        self.refresh()
        return f"gs_{id}_{secret}"

    def revoke(self, id: str, *, actor: str) -> None:
        """End a key. Raises `NotFound`, or `Conflict` for the last one with the scope `admin`."""
        with self._changing:
            self.refresh()
            admins = {key.id for key in self._valid.values() if "admin" in key.scopes}
            if admins == {id}:
                raise Conflict("this is the last admin key: make another one first")
            self._keys.revoke(id, actor=actor)
            self.refresh()

    def check(self, authorization: list[str], need: Need) -> Caller:
        """The caller behind the `Authorization` headers of one request.

        Raises `Unauthenticated` for anything but one valid bearer key, `Forbidden` for one without
        the scope. Unknown, wrong and revoked keys take the same path and cannot be told apart.
        """
        if not self._required or need == "public":
            return ANYONE
        if len(authorization) != 1:
            raise Unauthenticated("send one header 'Authorization: Bearer gs_…'")
        scheme, _, token = authorization[0].partition(" ")
        prefix, _, rest = token.strip().partition("_")
        id, _, secret = rest.partition("_")
        key = self._valid.get(id)
        expected = key.secret_hmac if key is not None else "0" * 64
        matches = hmac.compare_digest(self._hmac(secret), expected)
        if scheme.lower() != "bearer" or prefix != "gs" or key is None or not matches:
            raise Unauthenticated("the key is not valid")
        if need not in key.scopes:
            raise Forbidden(f"this needs a key with the scope {need!r}")
        return Caller(id=key.id, name=f"key {key.id} ({key.name})", scopes=key.scopes)

    def _hmac(self, secret: str) -> str:
        return hmac.digest(self._pepper, secret.encode(errors="replace"), "sha256").hex()


def open_keys(table: KeyTable, folder: Path, *, required: bool) -> Keys:
    """The keys of a data folder; its pepper is made on first use, readable by the owner only.

    Raises `Invalid` for a pepper that others can read or that is not one.
    """
    path = folder / "pepper"
    if not path.exists():
        _make_pepper(path)
    pepper = path.read_bytes()
    if path.stat().st_mode & 0o077:
        raise Invalid(f"{path} can be read by others; run: chmod 600 {path}", field="pepper")
    if len(pepper) != PEPPER_BYTES:
        raise Invalid(
            f"{path} has {len(pepper)} bytes instead of {PEPPER_BYTES}; restore it from a backup, "
            "or remove it and make all keys anew",
            field="pepper",
        )
    keys = Keys(table, pepper, required=required)
    keys.refresh()
    return keys


def _make_pepper(path: Path) -> None:
    """Write it aside and link it into place, so that it is whole and the first of two wins."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".pepper-") as file:
        file.write(secrets.token_bytes(PEPPER_BYTES))
        file.flush()
        os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(file.name, path)
