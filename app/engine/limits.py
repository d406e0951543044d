"""What one worker process may take: cores, memory and open files.

Limits are set from outside, right after the start and before anything heavy is imported, so that
every library in the worker finds the cores that it will have.
"""

import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass

OPEN_FILES = 1024
"""More than any runtime needs; a worker that comes near leaks."""

HARD_RATIO = 1.5
HARD_BASE_BYTES = 64 << 20
"""Where private memory ends at once: so much of the limit, and what an empty worker has mapped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """`cores` it is pinned to, none of them where it is not; resident bytes it is replaced at."""

    cores: tuple[int, ...] = ()
    memory_bytes: int | None = None

    def impose(self, pid: int) -> None:
        """Hold a process to this; one that is gone already is left alone."""
        try:
            if self.cores:
                os.sched_setaffinity(pid, self.cores)
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
            _lower(pid, resource.RLIMIT_NOFILE, OPEN_FILES)
            if self.memory_bytes is not None:
                hard = int(self.memory_bytes * HARD_RATIO) + HARD_BASE_BYTES
                _lower(pid, resource.RLIMIT_DATA, hard)
        except ProcessLookupError:
            return


def share_out(
    cores: Sequence[int], *, workers: int, threads: int, memory_bytes: int | None
) -> tuple[Limits, ...]:
    """Limits for each worker: `threads` cores each, in turn.

    The first core is left to the HTTP process where there is more than one. Where the rest is not
    enough for all, workers share cores evenly. Without `cores`, nothing is pinned.
    """
    rest = tuple(cores[1:]) or tuple(cores)
    found = []
    for number in range(workers):
        first = number * threads
        taken = {rest[(first + step) % len(rest)] for step in range(threads)} if rest else set()
        found.append(Limits(cores=tuple(sorted(taken)), memory_bytes=memory_bytes))
    return tuple(found)


def usable_cores() -> tuple[int, ...]:
    """The cores that this process may run on."""
    return tuple(sorted(os.sched_getaffinity(0)))


def _lower(pid: int, kind: int, wanted: int) -> None:
    """Set a limit, never above the one that holds already."""
    _, hard = resource.prlimit(pid, kind)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.prlimit(pid, kind, (limit, limit))
