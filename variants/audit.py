"""Who changed what, when and why: append-only, written in the transaction of the change itself.

    with database.change() as db:
        db.execute(...)
        audit.record(db, actor="key 1a2b (ops)", action="variant.move", model="fashion", ...)

The database's own triggers refuse to change or remove a line.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, Row, insert, select

from variants import tables
from variants.database import Database
from variants.errors import Invalid

MAX_ACTOR = 128
MAX_EVIDENCE_BYTES = 64 << 10
PAGE = 500
"""Lines that are read at once."""
LATEST = 20
"""Lines of a variant's history that are shown with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditEntry:
    """One line: what was done (`variant.move`, `key.create` …), to what, by whom and why.

    `evidence` is what it was decided on, as the action defines it.
    """

    id: int
    at: datetime
    actor: str
    action: str
    model: str | None
    variant: str | None
    old_state: str | None
    new_state: str | None
    reason: str
    evidence: Mapping[str, Any] | None


_line: TypeAdapter[AuditEntry] = TypeAdapter(AuditEntry)


def json_line(entry: AuditEntry) -> bytes:
    """The line as JSON, with its line end."""
    return _line.dump_json(entry) + b"\n"


def record(
    db: Connection,
    *,
    actor: str,
    action: str,
    reason: str,
    model: str | None = None,
    variant: str | None = None,
    old_state: str | None = None,
    new_state: str | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> None:
    """Add a line. Raises `Invalid` for evidence of more than `MAX_EVIDENCE_BYTES` as JSON."""
    found = None if evidence is None else json.dumps(evidence, allow_nan=False)
    if found is not None and len(found.encode()) > MAX_EVIDENCE_BYTES:
        raise Invalid(
            f"the evidence has {len(found.encode())} bytes; at most {MAX_EVIDENCE_BYTES} are kept",
            field="evidence",
        )
    db.execute(
        insert(tables.audit).values(
            at=datetime.now(UTC),
            actor=actor[:MAX_ACTOR],
            action=action,
            model=model,
            variant=variant,
            old_state=old_state,
            new_state=new_state,
            reason=reason,
            evidence=found,
        )
    )


class Audit:
    """What was recorded."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, *, actor: str, action: str, evidence: Mapping[str, Any]) -> None:
        """Record what was done to the files beside the database. Raises as `Database.write`."""
        with self._database.write() as db:
            record(db, actor=actor, action=action, reason="", evidence=evidence)

    def of(
        self, model: str, variant: str, *, after: int = 0, limit: int = PAGE
    ) -> tuple[AuditEntry, ...]:
        """What happened to a variant, oldest first: the first of the lines with larger ids."""
        table = tables.audit
        chosen = select(table).filter_by(model=model, variant=variant).where(table.c.id > after)
        with self._database.read() as db:
            return tuple(map(_entry, db.execute(chosen.order_by(table.c.id).limit(limit))))

    def latest(self, model: str, variant: str) -> tuple[AuditEntry, ...]:
        """The last `LATEST` things that happened to a variant, oldest first."""
        table = tables.audit
        chosen = select(table).filter_by(model=model, variant=variant)
        with self._database.read() as db:
            rows = db.execute(chosen.order_by(table.c.id.desc()).limit(LATEST)).all()
            return tuple(map(_entry, reversed(rows)))

    def after(self, id: int) -> Iterator[AuditEntry]:
        """Every line with a larger id, oldest first, read page by page."""
        table = tables.audit
        while True:
            with self._database.read() as db:
                rows = db.execute(
                    select(table).where(table.c.id > id).order_by(table.c.id).limit(PAGE)
                )
                entries = [_entry(row) for row in rows]
            if not entries:
                return
            yield from entries
            id = entries[-1].id


def _entry(row: Row[Any]) -> AuditEntry:
    return AuditEntry(
        id=row.id,
        at=row.at,
        actor=row.actor,
        action=row.action,
        model=row.model,
        variant=row.variant,
        old_state=row.old_state,
        new_state=row.new_state,
        reason=row.reason,
        evidence=None if row.evidence is None else json.loads(row.evidence),
    )
