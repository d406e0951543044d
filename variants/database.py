"""The database under registry, keys and audit: reading, changing, and the schema.

SQLite is the embedded default (`sqlite_file.py`); several gateways share a PostgreSQL server
(`postgres.py`). Never called on the request path: the gateway routes from a snapshot in memory.

    with database.change() as db:       # one transaction that holds the write lock
        db.execute(update(...))
        audit.record(db, ...)
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, inspect, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from variants import tables
from variants.claims import Claims
from variants.errors import (
    GearshiftError,
    Invalid,
    RegistryDamaged,
    RegistryUnavailable,
    StorageFull,
)
from variants.postgres import Postgres
from variants.sqlite_file import SqliteFile

MIGRATIONS = Path(__file__).parent / "migrations"
TIMEOUT_S = 5.0
Operation = Literal["read", "write", "change"]
_VERSION = re.compile(r"v(\d{4})_\w+\.py")


def newest_schema() -> str:
    """The schema that this program works with: the number of its newest migration."""
    names = (path.name for path in (MIGRATIONS / "versions").iterdir())
    return max(found[1] for name in names if (found := _VERSION.fullmatch(name)))


class Database:
    """A database, migrated to the present schema when opened.

    `place` is the path of a SQLite file or a `postgresql://` address; `timeout_s` bounds every wait
    for it. Raises `RegistryUnavailable`, `RegistryDamaged`, or `GearshiftError` for a schema newer
    than this program knows.
    """

    def __init__(self, place: Path | str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.backend = _backend(place, timeout_s)
        self.on_done: Callable[[Operation, float | None], None] = lambda op, seconds: None
        """Told of each transaction and its seconds, None for one that the database did not do;
        on the thread that made it."""
        self._migrate()

    @property
    def read_only(self) -> str:
        """Why nothing can be written now, in words; empty while it can."""
        return self.backend.read_only

    @property
    def claims(self) -> Claims:
        """Who is at work on what."""
        return self.backend.claims

    def close(self) -> None:
        """Close the database's connections."""
        self.backend.close()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that sees one state of the database, whatever others change.

        Raises `RegistryUnavailable`, or `RegistryDamaged` where what is read makes no sense.
        """
        with self._told("read"), self._explained(), self.backend.begin() as db:
            self.backend.begin_read(db)
            yield db

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that holds the write lock from its first statement.

        What it reads stays true until it commits, and schema changes are undone with the rest.
        For what gateways need not look at; everything else is a `change`. Raises
        `RegistryUnavailable`, `RegistryReadOnly`, `RegistryDamaged` or `StorageFull`; then nothing
        was acknowledged.
        """
        with self._told("write"), self._writing() as db:
            yield db

    @contextmanager
    def change(self) -> Iterator[Connection]:
        """A `write` that every gateway notices and renews its snapshot by."""
        with self._told("change"), self._writing() as db:
            yield db
            db.execute(update(tables.changes).values(version=tables.changes.c.version + 1))
            self.backend.after_change(db)

    def version(self) -> int:
        """A number that differs after each `change`."""
        with self.read() as db:
            found: int = db.execute(select(tables.changes.c.version)).scalar_one()
            return found

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._explained():
            with self.backend.begin() as db:
                self.backend.begin_write(db)
                yield db
            self.backend.written()

    @contextmanager
    def _told(self, op: Operation) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        except (RegistryUnavailable, StorageFull):
            self.on_done(op, None)
            raise
        self.on_done(op, time.monotonic() - start)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            meant = self.backend.explain(error)
            if meant is None:
                raise
            raise meant from error
        except ValueError as error:
            raise RegistryDamaged(f"the registry holds what it cannot hold: {error}") from error
        except PoolTimeout as error:
            raise RegistryUnavailable("every connection to the database is taken") from error

    def _migrate(self) -> None:
        newest = newest_schema()
        with self.read() as db:
            if _revision(db) == newest:
                return
        with self.write() as db:
            found = _revision(db)
            if found is not None and found > newest:
                raise GearshiftError(
                    f"the registry {self.backend.name} has schema {found}, newer than this "
                    f"program's {newest}; start the newer version, or "
                    f"{self.backend.way_back(newest)}"
                )
            if found is not None and found < newest:
                self.backend.keep_copy(found)
            _upgrade(db)


def _backend(place: Path | str, timeout_s: float) -> SqliteFile | Postgres:
    if isinstance(place, Path):
        return SqliteFile(place, timeout_s=timeout_s)
    if place.startswith(("postgresql://", "postgres://")):
        return Postgres(place.replace("postgres://", "postgresql://", 1), timeout_s=timeout_s)
    raise Invalid("database_url must begin with postgresql://", field="database_url")


def _upgrade(db: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = db
    command.upgrade(config, "head")


def _revision(db: Connection) -> str | None:
    if not inspect(db).has_table("alembic_version"):
        return None
    found: str | None = db.scalar(text("SELECT version_num FROM alembic_version"))
    return found
