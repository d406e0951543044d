"""What each key used on each day (UTC), and the dollars that were set aside for it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import Connection, insert, select, update

from variants import tables
from variants.database import Database


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What a key used on one day. `set_aside_usd` is what gateways took out to be spent."""

    key: str
    day: date
    requests: int
    usd: float
    set_aside_usd: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What one gateway adds to a day of a key, what it gives back, and what it wishes for.

    `back_usd` is negative where more was spent than had been set aside.
    """

    key: str
    day: date
    requests: int = 0
    usd: float = 0.0
    back_usd: float = 0.0
    wish_usd: float = 0.0
    per_day_usd: float = 0.0


class UsageTable:
    """The usage in a database. No gateway counts on another one's memory."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def book(self, entries: Iterable[Entry]) -> list[float]:
        """Add all entries, or none; the dollars granted to each, never beyond `per_day_usd`.

        What is granted is gone from the day, whether or not the gateway lives to spend it.
        """
        with self._database.write() as db:
            return [_booked(db, entry) for entry in entries]

    def of(self, key: str, *, days: int) -> tuple[Usage, ...]:
        """The latest days on which the key was used, newest first."""
        table = tables.usage
        with self._database.read() as db:
            rows = db.execute(
                select(table).filter_by(key=key).order_by(table.c.day.desc()).limit(days)
            )
            return tuple(_usage(row) for row in rows)


def _booked(db: Connection, entry: Entry) -> float:
    table = tables.usage
    place = {"key": entry.key, "day": entry.day}
    found = db.execute(select(table.c.set_aside_usd).filter_by(**place)).scalar()
    before_usd = max(0.0, (found or 0.0) - entry.back_usd)
    granted_usd = min(entry.wish_usd, max(0.0, entry.per_day_usd - before_usd))
    if not (entry.requests or entry.back_usd or granted_usd):
        return 0.0
    if found is None:
        db.execute(insert(table).values(**place, requests=0, usd=0.0, set_aside_usd=0.0))
    db.execute(
        update(table)
        .filter_by(**place)
        .values(
            requests=table.c.requests + entry.requests,
            usd=table.c.usd + entry.usd,
            set_aside_usd=before_usd + granted_usd,
        )
    )
    return granted_usd


def _usage(row: Any) -> Usage:
    return Usage(
        key=row.key,
        day=row.day,
        requests=row.requests,
        usd=row.usd,
        set_aside_usd=row.set_aside_usd,
    )
