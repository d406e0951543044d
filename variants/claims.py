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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from variants.errors import RegistryUnavailable
from variants.silence import Silence
from variants.store import storage_errors

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
        """Hold a name until what is returned is called; None where somebody holds it.

        Raises `StorageFull`, or `StorageBroken`.
        """
        path = self._folder / hashlib.sha256(name.encode()).hexdigest()
        while True:
            with storage_errors():
                self._folder.mkdir(exist_ok=True)
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
            with contextlib.suppress(OSError):  # a disk that takes nothing leaves an empty file
                path.unlink()
            os.close(file)

        return release

    def renew(self) -> None:
        """File locks do not break."""

    def close(self) -> None:
        """They end with the process, or are released one by one."""


class ServerClaims:
    """Advisory locks of one session of a PostgreSQL server, which frees them with it.

    When the server restarts, all are free for a moment until their holders are back: `patience_s`.
    A session that was open while the server was silent is given up, and its names are taken anew
    as soon as the server has found out too.
    """

    patience_s = 5.0

    def __init__(self, connect: Callable[[], Any], silence: Silence, *, timeout_s: float) -> None:
        self._connect = connect
        self._silence = silence
        self._timeout_s = timeout_s
        self._session: Any = None
        self._silences = 0
        self._held: dict[str, bool] = {}
        self._using = threading.Lock()

    def take(self, name: str) -> Release | None:
        """Hold a name until what is returned is called; None where somebody holds it.

        Raises `RegistryUnavailable`.
        """
        with self._turn():
            if name in self._held or not self._ask("pg_try_advisory_lock", name):
                return None
            self._held[name] = True

        def release() -> None:
            with contextlib.suppress(RegistryUnavailable), self._using:  # then it is free anyway
                del self._held[name]
                if self._usable():
                    self._ask("pg_advisory_unlock", name)

        return release

    def renew(self) -> None:
        """Hold again what was held before the connection broke. Raises `RegistryUnavailable`."""
        with self._turn():
            if self._held and not self._usable():
                self._open()
            for name in [name for name, holds in self._held.items() if not holds]:
                self._held[name] = self._ask("pg_try_advisory_lock", name)

    def close(self) -> None:
        """Give everything up."""
        with contextlib.suppress(RegistryUnavailable), self._turn():
            self._give_up()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One at a time uses the session. Raises `RegistryUnavailable`."""
        if not self._using.acquire(timeout=self._timeout_s):
            raise RegistryUnavailable("the database did not answer in time")
        try:
            yield
        finally:
            self._using.release()

    def _usable(self) -> bool:
        alive = self._session is not None and not self._session.closed
        return alive and self._silences == self._silence.count

    def _give_up(self) -> None:
        if self._session is not None:
            self._session.close()
        self._held = dict.fromkeys(self._held, False)

    def _open(self) -> None:
        self._give_up()
        self._silences = self._silence.count
        self._session = self._connect()
        for name in self._held:
            self._held[name] = self._ask("pg_try_advisory_lock", name)

    def _ask(self, function: str, name: str) -> bool:
        import psycopg

        try:
            if not self._usable():
                self._open()
            row = self._session.execute(
                f"SELECT {function}(hashtextextended(%s, 0))",
                (f"gearshift {name}",),
            ).fetchone()
        except psycopg.Error as error:
            self._give_up()
            raise RegistryUnavailable("the database cannot be reached") from error
        return bool(row[0])
