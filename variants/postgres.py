"""A PostgreSQL server as the database of several gateways.

Every wait is bounded: by the server, which ends a statement or a wait for a lock after `timeout_s`,
and here, for an answer that does not arrive (`MARGIN_S` later, so that the server's word comes
first). Keepalives of both ends find a peer that is gone.
"""

import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError

from variants.claims import ServerClaims
from variants.errors import (
    GearshiftError,
    Invalid,
    RegistryReadOnly,
    RegistryUnavailable,
    StorageFull,
)
from variants.sessions import SILENT, bounded
from variants.silence import Silence

if TYPE_CHECKING:
    import psycopg

CHANNEL = "gearshift"
WRITE_LOCK = 0x67656172_73686966
"""Who writes holds this advisory lock until the end of the transaction: one writer at a time."""

MARGIN_S = 1.0
QUICKEST_S = 2
"""libpq gives no connection up before."""


class Postgres:
    """A PostgreSQL database as a backend of `Database`. `url`: `postgresql://user@host/name`.

    Raises `Invalid` where the driver is not installed.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        try:
            from psycopg import ProgrammingError
            from psycopg.conninfo import conninfo_to_dict
        except ImportError:
            raise Invalid(
                "database_url names a PostgreSQL server: pip install 'gearshift[postgres]'",
                field="database_url",
            ) from None
        try:
            self.url = make_url(url).set(drivername="postgresql+psycopg")
            conninfo_to_dict(self._address())
        except (ArgumentError, ValueError, ProgrammingError):  # what it says may hold the password
            raise Invalid(
                "database_url is no address of a database: postgresql://user@host:port/name",
                field="database_url",
            ) from None
        self._refused = ""
        self._silence = Silence(RegistryUnavailable, "the database does not answer")
        self.claims = ServerClaims(self._claim_session, self._silence, timeout_s=timeout_s)
        self._timeout_s = timeout_s
        self._patience_s = max(QUICKEST_S, math.ceil(timeout_s))
        self._session, self._listener = bounded(timeout_s + MARGIN_S, self._silence.begin)
        limit_ms, limit_s = math.ceil(timeout_s * 1000), max(1, math.ceil(timeout_s))
        server = {
            "statement_timeout": limit_ms,
            "lock_timeout": limit_ms,
            "idle_in_transaction_session_timeout": 2 * limit_ms,
            "synchronous_commit": "on",
            "tcp_user_timeout": 2 * limit_ms,
            "tcp_keepalives_idle": limit_s,
            "tcp_keepalives_interval": 1,
            "tcp_keepalives_count": limit_s,
        }
        self._arguments: dict[str, Any] = {
            # The wait for an answer ends before.
            "tcp_user_timeout": 2 * math.ceil((timeout_s + MARGIN_S) * 1000),
            "keepalives_idle": limit_s,
            "keepalives_interval": 1,
            "keepalives_count": limit_s,
            "application_name": "gearshift",
            "options": " ".join(f"-c {name}={value}" for name, value in server.items()),
        }
        self.engine = create_engine(
            self.url,
            pool_pre_ping=True,
            pool_timeout=timeout_s,
            creator=self._connect,
            hide_parameters=True,
        )

    @property
    def name(self) -> str:
        """Where it is, for messages; without the password."""
        return self.url.set(drivername="postgresql").render_as_string(hide_password=True)

    @property
    def read_only(self) -> str:
        """Why nothing can be written now; empty while it can."""
        return self._refused

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction. Raises `RegistryUnavailable` at once while the server is silent."""
        with self._silence.turn():
            connection = self.engine.connect()
        with connection as db, db.begin():
            yield db

    def _claim_session(self) -> "psycopg.Connection[Any]":
        with self._silence.turn():
            return self._connect(autocommit=True)

    def _connect(self, *, autocommit: bool = False) -> "psycopg.Connection[Any]":
        """A new connection. Raises `psycopg.Error`."""
        import psycopg

        silence = self._silence
        if silence.silent and not silence.mine:
            raise psycopg.errors.ConnectionTimeout(SILENT)
        begun_s = time.monotonic()
        try:
            return self._session.connect(
                self._address(),
                autocommit=autocommit,
                connect_timeout=QUICKEST_S if silence.silent else self._patience_s,
                **self._arguments,
            )
        except psycopg.errors.ConnectionTimeout:
            silence.begin(begun_s)
            raise

    async def notices(self) -> AsyncIterator[None]:
        """One None at the begin, and one for each change that a gateway made.

        Raises `psycopg.Error` when cut off, also where nobody says so: a connection without news
        is asked for an answer every `timeout_s`.
        """
        session = await self._listener.connect(
            self._address(), autocommit=True, connect_timeout=self._patience_s, **self._arguments
        )
        try:
            await session.execute(f"LISTEN {CHANNEL}")
            yield
            while True:
                async for _ in session.notifies(timeout=self._timeout_s):
                    yield
                await session.execute("")
        finally:
            await session.close()

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
