"""What a process has had of the processors, and whether it wants more (Linux, proc(5))."""

import os
from pathlib import Path

STATE, USER, SYSTEM = 0, 11, 12
"""Fields of `/proc/PID/stat` after the name; times in clock ticks."""


def used_s(pid: int) -> float:
    """Processor time of all its threads, 0 for a process that is gone."""
    fields = _stat(Path(f"/proc/{pid}/stat"))
    if not fields:
        return 0.0
    return (int(fields[USER]) + int(fields[SYSTEM])) / os.sysconf("SC_CLK_TCK")


def wanted(pid: int) -> bool:
    """Whether one of its threads runs or could run now: it has, or waits for, a core."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return False
    return any(_stat(thread / "stat")[:1] == ["R"] for thread in threads)


def _stat(path: Path) -> list[str]:
    """The fields after the name, which may itself hold spaces and brackets; none if it is gone."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
