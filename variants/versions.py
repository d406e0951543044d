"""The version of a model, variant or key: how two that change it at once learn of each other.

A version grows at each change. `claim` lets one caller pass who knows the present version, and
grows it, so that whoever read the same state comes second. However much later that caller's change
comes, it is made only if nobody else made one in between: `held`, and `advance` in its transaction.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Table, select, update

from variants import tables
from variants.database import Database
from variants.errors import Outdated

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


@dataclass(kw_only=True, slots=True)
class Held:
    """What one request changes. `claimed` is the version that its first change must still find,
    None where any will do; `version` is what its last change made of it."""

    resource: Resource
    claimed: int | None
    version: int | None = None


_held: ContextVar[Held | None] = ContextVar("_held", default=None)


@contextmanager
def held(resource: Resource, claimed: int | None) -> Iterator[Held]:
    """Inside, the first change of a resource fails where it was changed since it was claimed.

    Tasks and threads that are begun inside belong to it.
    """
    request = Held(resource=resource, claimed=claimed)
    token = _held.set(request)
    try:
        yield request
    finally:
        _held.reset(token)


def advance(kind: Kind, present: int, **names: str) -> None:
    """The row of these names is being changed from this version on.

    Raises `Outdated` where the request claimed it and somebody else has changed it since.
    """
    request = _held.get()
    if request is None or request.resource != Resource(kind=kind, names=tuple(names.items())):
        return
    if request.claimed not in (None, present):
        raise Outdated(f"the {kind} was changed by somebody else meanwhile: look at it again")
    request.claimed, request.version = None, present + 1


def version(database: Database, resource: Resource) -> int | None:
    """The present version; None where there is no such thing."""
    table = _TABLES[resource.kind]
    with database.read() as db:
        found: int | None = db.scalar(select(table.c.version).filter_by(**dict(resource.names)))
    return found


def claim(database: Database, resource: Resource, known: frozenset[int] | None) -> int | None:
    """Grow the version where it is one of those known, or where None asks for any at all.

    What it has become; None where it is another one.
    """
    table = _TABLES[resource.kind]
    change = update(table).filter_by(**dict(resource.names)).values(version=table.c.version + 1)
    if known is not None:
        change = change.where(table.c.version.in_(known))
    with database.write() as db:
        grown: int | None = db.scalar(change.returning(table.c.version))
    return grown
