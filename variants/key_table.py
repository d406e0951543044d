"""API keys as they are stored: never the secret, only its HMAC."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import insert, select, update

from variants import audit, tables
from variants.database import Database
from variants.errors import NotFound


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRecord:
    """One key; `version` grows at each change."""

    id: str
    name: str
    secret_hmac: str
    scopes: frozenset[str]
    created_at: datetime
    revoked_at: datetime | None
    version: int


class KeyTable:
    """The keys in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, *, id: str, name: str, secret_hmac: str, scopes: frozenset[str], actor: str
    ) -> None:
        """Store a key's HMAC."""
        with self._database.change() as db:
            db.execute(
                insert(tables.keys).values(
                    id=id,
                    name=name,
                    secret_hmac=secret_hmac,
                    scopes=" ".join(sorted(scopes)),
                    created_at=datetime.now(UTC),
                )
            )
            evidence = {"key": id, "name": name, "scopes": sorted(scopes)}
            audit.record(db, actor=actor, action="key.create", reason="", evidence=evidence)

    def revoke(self, id: str, *, actor: str) -> None:
        """End a key. Raises `NotFound` for one that does not exist or has ended."""
        with self._database.change() as db:
            done = db.execute(
                update(tables.keys)
                .filter_by(id=id, revoked_at=None)
                .values(revoked_at=datetime.now(UTC), version=tables.keys.c.version + 1)
            )
            if done.rowcount == 0:
                raise NotFound(f"no valid key {id!r}")
            audit.record(db, actor=actor, action="key.revoke", reason="", evidence={"key": id})

    def all(self) -> tuple[KeyRecord, ...]:
        """Every key, revoked ones too, oldest first."""
        with self._database.read() as db:
            rows = db.execute(select(tables.keys).order_by(tables.keys.c.created_at))
            return tuple(
                KeyRecord(
                    id=row.id,
                    name=row.name,
                    secret_hmac=row.secret_hmac,
                    scopes=frozenset(row.scopes.split()),
                    created_at=row.created_at,
                    revoked_at=row.revoked_at,
                    version=row.version,
                )
                for row in rows
            )
