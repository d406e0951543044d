"""The version of a model, variant or key: how two that change it at once learn of each other.

A version grows at each change. `claim` lets one caller pass who knows the present version, and
grows it, so that whoever read the same state comes second.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Table, select, update

from variants import tables
from variants.database import Database

Kind = Literal["model", "variant", "key"]

_TABLES: Mapping[Kind, Table] = {
    "model": tables.models,
    "variant": tables.variants,
    "key": tables.keys,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """One row: what it is, and the values of its table's primary key."""

    kind: Kind
    names: tuple[tuple[str, str], ...]


def version(database: Database, resource: Resource) -> int | None:
    """The present version; None where there is no such thing."""
    table = _TABLES[resource.kind]
    with database.read() as db:
        found: int | None = db.scalar(select(table.c.version).filter_by(**dict(resource.names)))
    return found


def claim(database: Database, resource: Resource, known: frozenset[int] | None) -> bool:
    """Grow the version where it is one of those known, or where None asks for any at all."""
    table = _TABLES[resource.kind]
    change = update(table).filter_by(**dict(resource.names)).values(version=table.c.version + 1)
    if known is not None:
        change = change.where(table.c.version.in_(known))
    with database.write() as db:
        return db.execute(change).rowcount == 1
