"""API keys as they are stored: never the secret, only its HMAC."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from variants import audit, tables, versions
from variants.database import Database
from variants.errors import Conflict, NotFound
from variants.terms import NUMBERS, UNLIMITED, Terms, allowed, names


@dataclass(frozen=True, kw_only=True, slots=True)
class Secret:
    """What is stored of a secret: its HMAC, and what the pepper behind it is called.

    `pepper` is None for what is from before peppers had names.
    """

    hmac: str
    pepper: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRecord:
    """One key; `version` grows at each change.

    `old` is the secret before the last rotation, valid until `old_until`.
    """

    id: str
    name: str
    secret: Secret
    scopes: frozenset[str]
    created_at: datetime
    revoked_at: datetime | None
    version: int
    terms: Terms = UNLIMITED
    expires_at: datetime | None = None
    old: Secret | None = None
    old_until: datetime | None = None

    def valid_at(self, now: datetime) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def secrets_at(self, now: datetime) -> tuple[Secret, ...]:
        """The secrets of a valid key that are valid: the present one, and the old one in time."""
        if self.old is None or self.old_until is None or self.old_until <= now:
            return (self.secret,)
        return self.secret, self.old


class KeyTable:
    """The keys in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        *,
        id: str,
        name: str,
        secret: Secret,
        scopes: frozenset[str],
        actor: str,
        terms: Terms = UNLIMITED,
        expires_at: datetime | None = None,
        only_first: bool = False,
    ) -> bool:
        """Store a key, and say whether it was.

        With `only_first` only where there has never been one: of several who try at once, one does.
        """
        numbers = {name: getattr(terms, name) for name in NUMBERS}
        allow = None if terms.allow is None else names(terms.allow)
        with self._database.change() as db:
            if only_first and db.scalar(select(tables.keys.c.id).limit(1)) is not None:
                return False
            db.execute(
                insert(tables.keys).values(
                    id=id,
                    name=name,
                    scopes=" ".join(sorted(scopes)),
                    created_at=datetime.now(UTC),
                    expires_at=expires_at,
                    allow=None if allow is None else " ".join(allow),
                    **_stored(secret),
                    **numbers,
                )
            )
            evidence = {
                "key": id,
                "name": name,
                "scopes": sorted(scopes),
                "allow": allow,
                "expires_at": expires_at and expires_at.isoformat(),
                **numbers,
            }
            given = {name: value for name, value in evidence.items() if value is not None}
            audit.record(db, actor=actor, action="key.create", reason="", evidence=given)
        return True

    def rotate(
        self, id: str, secret: Secret, *, old_until: datetime, actor: str, reason: str = ""
    ) -> None:
        """Another secret for a key; the present one is valid until then.

        Raises `NotFound` for a key that does not exist or has ended.
        """
        with self._database.change() as db:
            old = _valid(db, id)
            kept = {"old_until": old_until, **_stored_old(old.secret)}
            _change(db, old, **kept, **_stored(secret))
            evidence = {"key": id, "old_until": old_until.isoformat()}
            audit.record(db, actor=actor, action="key.rotate", reason=reason, evidence=evidence)

    def revoke(self, id: str, *, actor: str, force: bool = False, reason: str = "") -> None:
        """End a key.

        Raises `NotFound` for one that does not exist or has ended, and `Conflict` for the last
        valid one with the scope `admin`, unless forced.
        """
        with self._database.change() as db:
            key = _valid(db, id)
            if "admin" in key.scopes and not force and not _other_admins(db, id):
                raise Conflict("this is the last admin key: make another one first, or force it")
            _change(db, key, revoked_at=datetime.now(UTC))
            evidence = {"key": id}
            audit.record(db, actor=actor, action="key.revoke", reason=reason, evidence=evidence)

    def store_anew(self, id: str, old_hmac: str, secret: Secret) -> None:
        """The same secret under another pepper, the old one too, unless it is gone meanwhile."""
        keys = update(tables.keys)
        with self._database.change() as db:
            db.execute(keys.filter_by(id=id, secret_hmac=old_hmac).values(**_stored(secret)))
            db.execute(keys.filter_by(id=id, old_hmac=old_hmac).values(**_stored_old(secret)))

    def pepper_rotated(self, *, actor: str) -> None:
        """Record that there is a new pepper, and let every gateway notice."""
        with self._database.change() as db:
            audit.record(db, actor=actor, action="key.rotate-pepper", reason="")

    def all(self) -> tuple[KeyRecord, ...]:
        """Every key, revoked ones too, oldest first."""
        with self._database.read() as db:
            rows = db.execute(select(tables.keys).order_by(tables.keys.c.created_at))
            return tuple(map(_record, rows))

    def unrevoked(self) -> tuple[KeyRecord, ...]:
        """The keys that were not revoked: what a gateway has to know, however many came before."""
        with self._database.read() as db:
            rows = db.execute(select(tables.keys).where(tables.keys.c.revoked_at.is_(None)))
            return tuple(map(_record, rows))


def _valid(db: Connection, id: str) -> KeyRecord:
    row = db.execute(select(tables.keys).filter_by(id=id)).first()
    key = None if row is None else _record(row)
    if key is None or not key.valid_at(datetime.now(UTC)):
        raise NotFound(f"no valid key {id[:80]!r}")
    return key


def _other_admins(db: Connection, id: str) -> bool:
    now = datetime.now(UTC)
    rows = db.execute(select(tables.keys).where(tables.keys.c.id != id))
    return any(key.valid_at(now) and "admin" in key.scopes for key in map(_record, rows))


def _change(db: Connection, key: KeyRecord, **values: Any) -> None:
    versions.advance("key", key.version, id=key.id)
    db.execute(update(tables.keys).filter_by(id=key.id).values(version=key.version + 1, **values))


def _stored(secret: Secret) -> dict[str, str | None]:
    return {"secret_hmac": secret.hmac, "pepper": secret.pepper}


def _stored_old(secret: Secret) -> dict[str, str | None]:
    return {"old_hmac": secret.hmac, "old_pepper": secret.pepper}


def _record(row: Any) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        name=row.name,
        secret=Secret(hmac=row.secret_hmac, pepper=row.pepper),
        scopes=frozenset(row.scopes.split()),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        version=row.version,
        terms=Terms(
            allow=None if row.allow is None else allowed(row.allow.split()),
            **{name: getattr(row, name) for name in NUMBERS},
        ),
        expires_at=row.expires_at,
        old=None if row.old_hmac is None else Secret(hmac=row.old_hmac, pepper=row.old_pepper),
        old_until=row.old_until,
    )
