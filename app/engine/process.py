"""Starting the operating-system process of a worker.

Imports nothing heavy, so that `gearshift serve` can start its workers first and import the rest of
the gateway while they import their runtimes.
"""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass

from app.engine.limits import Limits
from variants.surroundings import for_child


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """A started process and the gateway's end of the socket to it."""

    popen: subprocess.Popen[bytes]
    channel: socket.socket

    def end(self) -> None:
        """Kill it and wait until it is gone."""
        self.channel.close()
        self.popen.kill()
        self.popen.wait()


def spawn(limits: Limits | None = None) -> Process:
    """Start a worker process within limits; it waits for operations. Raises `OSError`.

    Always a new interpreter, never a fork of this one: it inherits no lock, thread or open file
    but its end of the socket.
    """
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            popen = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "app.engine.worker_process",
                    str(theirs.fileno()),
                    str(os.getpid()),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=_environment(),
            )
    except OSError:
        ours.close()
        raise
    if limits is not None:
        limits.impose(popen.pid)
    return Process(popen=popen, channel=ours)


def _environment() -> dict[str, str]:
    """The child's environment: no settings or secrets, and memory that returns after an unload."""
    return {
        **for_child(os.environ),
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }
