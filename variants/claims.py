"""Who is at work on what: names that one live process holds, free again as soon as it dies.

A variant that is half registered or half drained is either being worked on by a gateway that
lives, which holds its name, or was left behind by one that died; only the second may be settled by
another. Beside a SQLite file these are file locks, beside PostgreSQL session locks of the server.
"""

import contextlib
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from variants.errors import RegistryUnavailable

Release = Callable[[], None]


class Claims(Protocol):
    """`patience_s`: how long a name must be free before its holder counts as dead."""

    patience_s: float

    def take(self, name: str) -> Release | None:
        """Hold a name until what is returned is called; None where somebody holds it."""
        ...

    def renew(self) -> None:
        """Hold again what was held before the connection broke."""
        ...

    def close(self) -> None:
        """Give everything up."""
        ...


class FileClaims:
    """Locks on files of a folder: the system frees them with the process that held them."""

    patience_s = 0.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, name: str) -> Release | None:
        """Hold a name until what is returned is called; None where somebody holds it."""
        path = self._folder / hashlib.sha256(name.encode()).hexdigest()
        self._folder.mkdir(exist_ok=True)
        while True:
            file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                return None
            if path.exists() and os.fstat(file).st_ino == path.stat().st_ino:
                break
            os.close(file)  # its last holder removed it meanwhile

        def release() -> None:
            path.unlink(missing_ok=True)
            os.close(file)

        return release

    def renew(self) -> None:
        """File locks do not break."""

    def close(self) -> None:
        """They end with the process, or are released one by one."""


class ServerClaims:
    """Advisory locks of one session of a PostgreSQL server, which frees them with it.

    When the server restarts, all are free for a moment until their holders are back: `patience_s`.
    """

    patience_s = 5.0

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._session: Any = None
        self._held: set[str] = set()
        self._using = threading.Lock()

    def take(self, name: str) -> Release | None:
        """Hold a name until what is returned is called; None where somebody holds it.

        Raises `RegistryUnavailable`.
        """
        with self._using:
            if name in self._held or not self._ask("pg_try_advisory_lock", name):
                return None
            self._held.add(name)

        def release() -> None:
            with self._using, contextlib.suppress(RegistryUnavailable):  # then it is free anyway
                self._held.discard(name)
                self._ask("pg_advisory_unlock", name)

        return release

    def renew(self) -> None:
        """Hold again what was held before the connection broke. Raises `RegistryUnavailable`."""
        with self._using:
            if self._held and (self._session is None or self._session.closed):
                self._open()

    def close(self) -> None:
        """Give everything up."""
        with self._using:
            if self._session is not None:
                self._session.close()

    def _open(self) -> None:
        self._session = self._connect()
        for name in self._held:
            self._ask("pg_try_advisory_lock", name)

    def _ask(self, function: str, name: str) -> bool:
        import psycopg

        try:
            if self._session is None or self._session.closed:
                self._open()
            row = self._session.execute(
                f"SELECT {function}(hashtextextended(%s, 0))",
                (f"gearshift {name}",),
            ).fetchone()
        except psycopg.Error as error:
            if self._session is not None:
                self._session.close()
            raise RegistryUnavailable("the database cannot be reached") from error
        return bool(row[0])
