"""Real servers that tests start for themselves, one small class each.

A program is looked for on the PATH, where Debian puts it, and in `.venv/servers`, where
`make test` may have unpacked it. A test that needs one which is not there is skipped and says so.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PLACES = ("/usr/lib/postgresql/*/bin", "/usr/sbin", "/usr/local/sbin", ".venv/servers/**/bin")


def program(name: str) -> Path:
    """Where a server's program lies; the test is skipped where it is nowhere."""
    if found := shutil.which(name):
        return Path(found).resolve()
    for place in PLACES:
        root = Path("/") if place.startswith("/") else Path()
        for path in sorted(root.glob(f"{place.removeprefix('/')}/{name}"), reverse=True):
            return path.absolute()
    pytest.skip(f"{name} is not installed")


@dataclass
class Postgres:
    """A PostgreSQL server of its own, on a socket in its folder. It refuses to run as root."""

    folder: Path
    settings: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    made: int = 0

    def __post_init__(self) -> None:
        self._bin = program("initdb").parent
        self._user = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        if os.getuid() == 0:
            shutil.chown(self.folder, self._user)
        self._run(
            "initdb", "-D", "data", "-U", "gearshift", "-A", "trust", "--no-sync", "-E", "UTF8"
        )
        self.start()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = ["fsync=off", "listen_addresses=", f"unix_socket_directories={self.folder}"]
        options += ["max_connections=60", "shared_buffers=16MB", *self.settings]
        arguments = [part for option in options for part in ("-c", option)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._bin / "postgres", "-D", self.folder / "data", *arguments],
                stderr=log,
                stdout=log,
                user=self._user,
                cwd=self.folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + 30
        while self._run("pg_isready", "-h", str(self.folder), check=False) != 0:
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """End the server: at once (SIGQUIT), by the rules (SIGINT), or as a crash (SIGKILL)."""
        if self.process is None:
            return
        if how == signal.SIGKILL:  # every one of its processes, as when the machine dies
            os.killpg(self.process.pid, how)
        else:
            self.process.send_signal(how)
        self.process.wait()
        self.process = None
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def database(self) -> str:
        """The address of a new, empty database."""
        self.made += 1
        name = f"test{self.made}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, name: str) -> str:
        """The address of a database of this server."""
        return f"postgresql://gearshift@/{name}?host={self.folder}"

    def sql(self, statement: str, database: str = "postgres") -> None:
        """Run a statement."""
        self._run(
            "psql", "-qX", "-h", str(self.folder), "-U", "gearshift", "-c", statement, database
        )

    def _run(self, name: str, *arguments: str, check: bool = True) -> int:
        return subprocess.run(
            [self._bin / name, *arguments],
            check=check,
            user=self._user,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        ).returncode


@contextlib.contextmanager
def postgres(*settings: str) -> Iterator[Postgres]:
    """A running PostgreSQL server, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="gs-pg-") as folder:  # socket paths must be short
        server = Postgres(Path(folder), settings)
        try:
            yield server
        finally:
            server.stop()
