"""What was answered to a request that may be sent again: kept for a day, sealed by its sender.

A reply is found by the digest of who asked what under which `Idempotency-Key`; its content is
encrypted with a secret that the caller sends and nobody stores, for it may hold a new key.
Source: draft-ietf-httpapi-idempotency-key-header.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Connection, Row, delete, insert, select, update

from variants import tables
from variants.database import Database

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEEP = timedelta(hours=24)
LEASE = timedelta(seconds=30)
"""A request in flight that is not renewed for so long has died with its gateway."""

SCHEME = b"gcm1"
"""Ahead of what this version has sealed; what another one has is as if it were not there."""

NONCE_BYTES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """Status, headers and body as they were sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Standing = Literal["begun", "in_flight", "other_request", "unreadable"]


class Replies:
    """The table of replies in a database that all gateways share."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, id: str, fingerprint: str, secret: bytes) -> Reply | Standing:
        """Claim a request, or say what is known of it.

        `begun`: it is this caller's turn, who must `finish` or `forget` it. `other_request`: the
        same id with another fingerprint. `unreadable`: answered to a caller with another secret.
        """
        now = datetime.now(UTC)
        with self._database.write() as db:
            db.execute(delete(tables.replies).where(tables.replies.c.created_at < now - KEEP))
            row = db.execute(select(tables.replies).filter_by(id=id)).first()
            if row is not None and row.fingerprint != fingerprint:
                return "other_request"
            if row is None or _is_void(row, now):
                _claim(db, id, fingerprint, now)
                return "begun"
        if row.sealed is None:
            return "in_flight"
        return _opened(row.sealed, secret) or "unreadable"

    def renew(self, id: str) -> None:
        """Say that the request is still in flight; to be called well within `LEASE`."""
        with self._database.write() as db:
            values = {"renewed_at": datetime.now(UTC)}
            db.execute(update(tables.replies).filter_by(id=id).values(values))

    def finish(self, id: str, reply: Reply, secret: bytes) -> None:
        """Keep the reply."""
        sealed = _sealed(reply, secret)
        with self._database.write() as db:
            db.execute(update(tables.replies).filter_by(id=id).values(sealed=sealed))

    def forget(self, id: str) -> None:
        """The request came to nothing and may be tried again."""
        with self._database.write() as db:
            db.execute(delete(tables.replies).filter_by(id=id))


def _is_void(row: Row[tuple[object, ...]], now: datetime) -> bool:
    """Whether its gateway died over it, or sealed it in another way."""
    if row.sealed is None:
        return bool(row.renewed_at < now - LEASE)
    return not row.sealed.startswith(SCHEME)


def _claim(db: Connection, id: str, fingerprint: str, now: datetime) -> None:
    db.execute(delete(tables.replies).filter_by(id=id))
    db.execute(
        insert(tables.replies).values(
            id=id, fingerprint=fingerprint, created_at=now, renewed_at=now
        )
    )


def _sealed(reply: Reply, secret: bytes) -> bytes:
    content = json.dumps([reply.status, dict(reply.headers), reply.body.decode("latin-1")])
    nonce = secrets.token_bytes(NONCE_BYTES)
    return SCHEME + nonce + _cipher(secret).encrypt(nonce, content.encode(), SCHEME)


def _opened(sealed: bytes, secret: bytes) -> Reply | None:
    from cryptography.exceptions import InvalidTag

    nonce, hidden = sealed[len(SCHEME) :][:NONCE_BYTES], sealed[len(SCHEME) + NONCE_BYTES :]
    try:
        content = _cipher(secret).decrypt(nonce, hidden, SCHEME)
    except InvalidTag:
        return None
    status, headers, body = json.loads(content)
    return Reply(status=status, headers=headers, body=body.encode("latin-1"))


def _cipher(secret: bytes) -> "AESGCM":
    """AES-256-GCM (NIST SP 800-38D) under a key made of the secret by HKDF (RFC 5869).

    Imported here: gateways start without it, and few requests need it.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"gearshift reply").derive(secret)
    return AESGCM(key)
