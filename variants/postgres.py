"""A PostgreSQL server as the database of several gateways.

Every wait is bounded by `timeout_s`: for a connection, a statement, a lock, and a server whose
network has gone silent.
"""

import math
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, create_engine, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from variants.claims import ServerClaims
from variants.errors import (
    GearshiftError,
    Invalid,
    RegistryReadOnly,
    RegistryUnavailable,
    StorageFull,
)

if TYPE_CHECKING:
    import psycopg

CHANNEL = "gearshift"
WRITE_LOCK = 0x67656172_73686966
"""Who writes holds this advisory lock until the end of the transaction: one writer at a time."""


class Postgres:
    """A PostgreSQL database as a backend of `Database`. `url`: `postgresql://user@host/name`.

    Raises `Invalid` where the driver is not installed.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        try:
            import psycopg  # noqa: F401  (only to say what is missing)
        except ImportError:
            raise Invalid(
                "database_url names a PostgreSQL server: pip install 'gearshift[postgres]'",
                field="database_url",
            ) from None
        self.url = make_url(url).set(drivername="postgresql+psycopg")
        self._refused = ""
        self.claims = ServerClaims(self.session)
        limit_ms = math.ceil(timeout_s * 1000)
        self._arguments: dict[str, Any] = {
            "connect_timeout": max(2, math.ceil(timeout_s)),
            "tcp_user_timeout": limit_ms,
            "keepalives_idle": max(1, math.ceil(timeout_s)),
            "application_name": "gearshift",
            "options": f"-c statement_timeout={limit_ms} -c lock_timeout={limit_ms} "
            f"-c idle_in_transaction_session_timeout={2 * limit_ms} -c synchronous_commit=on",
        }
        self.engine = create_engine(
            self.url, pool_pre_ping=True, pool_timeout=timeout_s, connect_args=self._arguments
        )

    @property
    def name(self) -> str:
        """Where it is, for messages; without the password."""
        return self.url.set(drivername="postgresql").render_as_string(hide_password=True)

    @property
    def read_only(self) -> str:
        """Why nothing can be written now; empty while it can."""
        return self._refused

    def session(self) -> "psycopg.Connection[Any]":
        """A connection of its own, without transactions. Raises `psycopg.Error`."""
        import psycopg

        return psycopg.connect(self._address(), autocommit=True, **self._arguments)

    async def notices(self) -> AsyncIterator[None]:
        """One None for each change that a gateway made. Raises `psycopg.Error` when cut off."""
        import psycopg

        session = await psycopg.AsyncConnection.connect(
            self._address(), autocommit=True, **self._arguments
        )
        async with session:
            await session.execute(f"LISTEN {CHANNEL}")
            async for _ in session.notifies():
                yield

    def close(self) -> None:
        """Close every connection."""
        self.claims.close()
        self.engine.dispose()

    def _address(self) -> str:
        return self.url.set(drivername="postgresql").render_as_string(hide_password=False)

    def begin_read(self, db: Connection) -> None:
        """Begin a transaction that sees one state."""
        db.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def begin_write(self, db: Connection) -> None:
        """Begin a transaction that holds the write lock.

        Each statement after it sees what was committed before, and nobody else commits meanwhile.
        """
        db.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})")

    def after_change(self, db: Connection) -> None:
        """Tell the gateways that listen, once this is committed."""
        db.exec_driver_sql(f"NOTIFY {CHANNEL}")

    def written(self) -> None:
        """A write was committed."""
        self._refused = ""

    def explain(self, error: DBAPIError) -> GearshiftError | None:
        """What a driver's error means; None for a mistake in a statement.

        Source: PostgreSQL's appendix "Error Codes".
        """
        state = getattr(error.orig, "sqlstate", None) or ""
        if state == "25006":
            self._refused = "the database takes no changes now (read-only transaction)"
            return RegistryReadOnly(self._refused)
        if state == "53100":
            return StorageFull("the disk of the database is full")
        if state in ("55P03", "57014"):
            return RegistryUnavailable("the database did not answer in time")
        if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
            return RegistryUnavailable("the database cannot be reached")
        return None

    def keep_copy(self, schema: str) -> None:
        """The server's backups are its operator's business."""

    def way_back(self, schema: str) -> str:
        """What to do to work with this older schema again."""
        return "restore a backup (pg_restore) made before it ran"
