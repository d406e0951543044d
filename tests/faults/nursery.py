"""Gateways that start in a moment: a process that has imported everything, and forks.

    with nursery() as forks:
        child = forks.start(data_dir, {"GEARSHIFT_DATABASE_URL": …})
        os.kill(child.pid, signal.SIGKILL)

Each is `gearshift serve` in all but its imports: its own process, workers, sockets and database.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """A gateway that listens."""

    pid: int
    port: int


class Nursery:
    """Speaks with the process that forks."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.alive: set[int] = set()

    def start(self, data_dir: Path, env: Mapping[str, str]) -> Child:
        """A gateway over this folder, once it takes connections."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"data_dir": str(data_dir), "env": dict(env)}) + "\n")
        self._process.stdin.flush()
        child = Child(**json.loads(self._process.stdout.readline()))
        self.alive.add(child.pid)
        return child

    def kill(self, child: Child, how: signal.Signals = signal.SIGKILL) -> None:
        """End a gateway; it is gone when this returns."""
        os.kill(child.pid, how)
        assert self._process.stdout is not None
        assert json.loads(self._process.stdout.readline()) == {"gone": child.pid}
        self.alive.remove(child.pid)


@contextlib.contextmanager
def nursery(log: Path, env: Mapping[str, str] | None = None) -> Iterator[Nursery]:
    """A process that forks gateways; what they log goes to a file."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **(env or {})},
        )
    forks = Nursery(process)
    try:
        yield forks
    finally:
        for pid in forks.alive:  # of a test that failed
            os.kill(pid, signal.SIGKILL)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def _main() -> None:
    import app.server
    from app.settings import Options, load

    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.environ.update(asked["env"])
            settings, _ = load(None, {"data_dir": asked["data_dir"], "port": 0})
            app.server.run(Options(settings), (), _listening)
            os._exit(0)
        os.waitpid(pid, 0)
        print(json.dumps({"gone": pid}), flush=True)


def _listening(url: str) -> None:
    print(json.dumps({"pid": os.getpid(), "port": int(url.rsplit(":", 1)[1])}), flush=True)


if __name__ == "__main__":
    _main()
