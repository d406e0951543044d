"""The database under registry, keys and audit: reading, changing, and the schema.

SQLite is the embedded default (rollback journal and `synchronous=EXTRA`: the SQLite that ships
with many Pythons has a WAL corruption bug). Never called on the request path: the gateway routes
from a snapshot in memory.

    with database.change() as db:       # one transaction that holds the write lock
        db.execute(update(...))
        audit.record(db, ...)
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, inspect, select, text, update

from variants import tables
from variants.errors import GearshiftError

MIGRATIONS = Path(__file__).parent / "migrations"
_VERSION = re.compile(r"v(\d{4})_\w+\.py")


def newest_schema() -> str:
    """The schema that this program works with: the number of its newest migration."""
    names = (path.name for path in (MIGRATIONS / "versions").iterdir())
    return max(found[1] for name in names if (found := _VERSION.fullmatch(name)))


class Database:
    """A database, migrated to the present schema when opened.

    Raises `GearshiftError` for a schema newer than this program knows.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 5})
        event.listen(self._engine, "connect", _configure_sqlite)
        self._migrate()

    def close(self) -> None:
        """Close the database's connections."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that sees one state of the database, whatever others change."""
        with self._engine.begin() as db:
            db.exec_driver_sql("BEGIN")
            yield db

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that holds the write lock from its first statement.

        What it reads stays true until it commits, and schema changes are undone with the rest.
        For what gateways need not look at; everything else is a `change`.
        """
        with self._engine.begin() as db:
            db.exec_driver_sql("BEGIN IMMEDIATE")
            yield db

    @contextmanager
    def change(self) -> Iterator[Connection]:
        """A `write` that every gateway notices and renews its snapshot by."""
        with self.write() as db:
            yield db
            db.execute(update(tables.changes).values(version=tables.changes.c.version + 1))

    def version(self) -> int:
        """A number that differs after each `change`."""
        with self.read() as db:
            found: int = db.execute(select(tables.changes.c.version)).scalar_one()
            return found

    def _migrate(self) -> None:
        newest = newest_schema()
        with self.read() as db:
            if _revision(db) == newest:
                return
        with self.write() as db:
            found = _revision(db)
            if found is not None and found > newest:
                raise GearshiftError(self._too_new(found, newest))
            if found is not None and found < newest:
                self._keep_copy(found)
            _upgrade(db)

    def _too_new(self, found: str, newest: str) -> str:
        copy = self._copy_of(newest)
        way_back = (
            f"restore the copy made before it ran, {copy}"
            if copy.exists()
            else ("restore a backup made before it ran")
        )
        return (
            f"the registry {self._path} has schema {found}, newer than this program's {newest}; "
            f"start the newer version, or {way_back}"
        )

    def _copy_of(self, schema: str) -> Path:
        return self._path.with_name(f"{self._path.name}.schema-{schema}")

    def _keep_copy(self, schema: str) -> None:
        """A copy beside the database, for the way back after an upgrade."""
        with (
            closing(sqlite3.connect(self._path)) as source,
            closing(sqlite3.connect(self._copy_of(schema))) as target,
        ):
            source.backup(target)


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


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where `read` and `write` say so
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=DELETE")
    cursor.execute("PRAGMA synchronous=EXTRA")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
