"""The embedded database: one SQLite file, with what must hold for nothing to be lost.

- Rollback journal and `synchronous=EXTRA`. A write-ahead log is refused unless SQLite is free of
  its corruption bug (fixed in 3.51.3, and in 3.44.6 and 3.50.7; source: sqlite.org/wal.html,
  "The WAL-Reset Bug").
- Never on a network file system, whose locks cannot be trusted (sqlite.org/howtocorrupt.html §2.1).
- Never a file that came or went behind the program's back: one that was removed is not made anew.
- A failed fsync ends writing for good: nobody knows what the disk has kept
  (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
"""

import os
import re
import sqlite3
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError

from variants.claims import FileClaims
from variants.errors import (
    GearshiftError,
    RegistryDamaged,
    RegistryReadOnly,
    RegistryUnavailable,
    StorageFull,
)

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse", "gpfs", "lustre", "ncpfs"}
)
WAL_IS_SAFE = ((3, 44, 6), (3, 50, 7), (3, 51, 3))
ADVICE = "restore a backup with 'gearshift restore'"
MOUNTS = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(r"\\([0-7]{3})")
"""How that writes a space, a tab, a line feed or a backslash; all else is as it is."""

BROKEN = (
    "the disk failed to keep what was written (fsync): nothing is changed any more; "
    "check the disk, then restart"
)
DAMAGED = f"the registry is damaged: {ADVICE}"
MEANINGS: tuple[tuple[str, type[GearshiftError], str], ...] = (
    ("SQLITE_FULL", StorageFull, "the disk of the registry is full"),
    ("SQLITE_BUSY", RegistryUnavailable, "another program has kept the registry locked"),
    ("SQLITE_CORRUPT", RegistryDamaged, DAMAGED),
    ("SQLITE_NOTADB", RegistryDamaged, DAMAGED),
    ("SQLITE_IOERR", RegistryUnavailable, "the registry's file cannot be read or written"),
    ("SQLITE_CANTOPEN", RegistryUnavailable, "the registry's file cannot be opened"),
)
"""What SQLite's errors mean, by the start of their names (sqlite.org/rescode.html)."""


def wal_is_safe(version: tuple[int, int, int]) -> bool:
    """Whether a SQLite of this version may use a write-ahead log."""
    return version >= WAL_IS_SAFE[-1] or any(
        version[:2] == fixed[:2] and version >= fixed for fixed in WAL_IS_SAFE
    )


def file_system(path: Path, mounts: str) -> str:
    """The type of the file system that holds `path`, by the text of `/proc/self/mountinfo`.

    Source: proc_pid_mountinfo(5): the mount point is the fifth field, the type follows " - ".
    """
    found, longest = "", -1
    for line in mounts.strip("\n").split("\n"):
        left, _, right = line.partition(" - ")
        point = _ESCAPE.sub(lambda code: chr(int(code[1], 8)), left.split(" ")[4])
        if path.is_relative_to(point) and len(point) >= longest:
            found, longest = right.split()[0], len(point)
    return found


def refuse_network(path: Path, mounts: str) -> None:
    """Raise `GearshiftError` where `path` lies on a network or user-space file system."""
    kind = file_system(path, mounts)
    if kind.partition(".")[0] in NETWORK_FILE_SYSTEMS:
        raise GearshiftError(
            f"{path} lies on a file system of type {kind}, on which SQLite can lose or damage "
            "data: choose a local folder, or a PostgreSQL server (option database_url)"
        )


class SqliteFile:
    """A SQLite file as a backend of `Database`. `timeout_s`: how long to wait for its lock."""

    def __init__(self, path: Path, *, timeout_s: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if MOUNTS.exists():
            refuse_network(path.parent.resolve(), os.fsdecode(MOUNTS.read_bytes()))
        self.path = path
        self._timeout_s = timeout_s
        self._broken = ""
        self._refused = ""
        fresh = not path.exists() or path.stat().st_size == 0
        if not fresh:
            _check(path)
        self.engine = create_engine(
            f"sqlite:///{path}",
            creator=self._connect,
            pool_timeout=timeout_s,
            hide_parameters=True,
        )
        self._mode = "rwc" if fresh else "rw"
        event.listen(self.engine, "connect", self._on_connect)
        event.listen(self.engine, "checkout", self._on_checkout)
        self.claims = FileClaims(path.parent / "claims")

    @property
    def name(self) -> str:
        """Where it is, for messages."""
        return str(self.path)

    @property
    def read_only(self) -> str:
        """Why nothing can be written now; empty while it can."""
        if self._broken:
            return self._broken
        try:
            if os.statvfs(self.path).f_flag & os.ST_RDONLY:
                return "the registry's file system is mounted read-only"
        except OSError:
            return "the registry's file cannot be reached"
        return self._refused

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def begin(self) -> AbstractContextManager[Connection]:
        """A transaction."""
        return self.engine.begin()

    def begin_read(self, db: Connection) -> None:
        """Begin a transaction that sees one state."""
        db.exec_driver_sql("BEGIN")

    def begin_write(self, db: Connection) -> None:
        """Begin a transaction that holds the write lock. Raises `RegistryReadOnly`."""
        if self._broken:
            raise RegistryReadOnly(self._broken)
        db.exec_driver_sql("BEGIN IMMEDIATE")

    def after_change(self, db: Connection) -> None:
        """Nobody can be told: gateways look at the counter."""

    def written(self) -> None:
        """A write was committed."""
        self._refused = ""

    def explain(self, error: DBAPIError) -> GearshiftError | None:
        """What a driver's error means; None for a mistake in a statement."""
        name = getattr(error.orig, "sqlite_errorname", "")
        if "FSYNC" in name:
            self._broken = BROKEN
            return RegistryReadOnly(BROKEN)
        if name.startswith("SQLITE_READONLY"):
            self._refused = "the registry's file is read-only"
            return RegistryReadOnly(self._refused)
        if str(error.orig).startswith(("no such table", "no such column")):
            return RegistryDamaged(DAMAGED)  # emptied, or replaced by something else
        if not name and isinstance(error.orig, sqlite3.OperationalError):
            return RegistryDamaged(DAMAGED)  # the driver's own: a text that is not UTF-8
        for start, kind, message in MEANINGS:
            if name.startswith(start):
                return kind(message)
        return None

    def keep_copy(self, schema: str) -> None:
        """A copy beside the database, for the way back after an upgrade from this schema."""
        with (
            closing(sqlite3.connect(self.path)) as source,
            closing(sqlite3.connect(self._copy(schema))) as target,
        ):
            source.backup(target)

    def way_back(self, schema: str) -> str:
        """What to do to work with this older schema again."""
        copy = self._copy(schema)
        if copy.exists():
            return f"restore the copy made before it ran, {copy}"
        return "restore a backup made before it ran"

    def _copy(self, schema: str) -> Path:
        return self.path.with_name(f"{self.path.name}.schema-{schema}")

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{quote(str(self.path))}?mode={self._mode}",
            uri=True,
            timeout=self._timeout_s,
            isolation_level=None,  # transactions begin where `begin_read` and `begin_write` say so
            check_same_thread=False,
        )

    def _on_connect(self, connection: sqlite3.Connection, record: Any) -> None:
        with closing(connection.cursor()) as cursor:
            (journal,) = cursor.execute("PRAGMA journal_mode=DELETE").fetchone()
            if journal == "wal" and not wal_is_safe(sqlite3.sqlite_version_info):
                raise GearshiftError(
                    f"{self.path} is open elsewhere with a write-ahead log, which SQLite "
                    f"{sqlite3.sqlite_version} can damage: close the other program"
                )
            cursor.execute("PRAGMA synchronous=EXTRA")
            cursor.execute("PRAGMA foreign_keys=ON")
        self._mode = "rw"  # from now on it is never made anew
        record.info["file"] = _identity(self.path)

    def _on_checkout(self, connection: Any, record: Any, proxy: Any) -> None:
        """A connection to a file that has been removed or replaced is given up."""
        if record.info.get("file") != _identity(self.path):
            raise DisconnectionError


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _check(path: Path) -> None:
    """Raise `RegistryDamaged` for a file that is no sound database."""
    try:
        with closing(sqlite3.connect(path, timeout=30)) as db:
            (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the second: it quotes a name
        found = str(error)
        if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_CANTOPEN")):
            raise RegistryUnavailable(f"the registry {path} cannot be opened: {error}") from error
    if found != "ok":
        raise RegistryDamaged(f"the registry {path} is damaged ({found.strip()}): {ADVICE}")
