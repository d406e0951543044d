"""Load on a server on this host: a small C program sends, so that the sender costs little.

    generator = Generator.compile(folder)
    generator.run(port, request, connections=16, seconds=2.0).requests_per_s

Two cores serve server and sender: a sender in Python would take the half of them.
"""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

SOURCE = Path(__file__).with_name("loadgen.c")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What came back within the measured time; latencies in milliseconds."""

    requests_per_s: float
    answered: int
    refused: int
    broken: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    client_cpu_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Generator:
    """The compiled program, and where it may put requests."""

    program: Path
    folder: Path

    @classmethod
    def compile(cls, folder: Path) -> Self:
        """Compile it with the C compiler of this machine. Raises `CalledProcessError`."""
        program = folder / "loadgen"
        subprocess.run(["cc", "-O2", "-o", str(program), str(SOURCE), "-lm"], check=True)
        return cls(program=program, folder=folder)

    def run(
        self,
        port: int,
        request: bytes,
        *,
        connections: int,
        seconds: float,
        warm_up_s: float = 0.5,
        rate_per_s: float = 0.0,
    ) -> Load:
        """Send one request again and again; a rate of 0 keeps every connection busy."""
        path = self.folder / "request"
        path.write_bytes(request)
        numbers = [connections, warm_up_s, seconds, rate_per_s]
        done = subprocess.run(
            [str(self.program), str(port), str(path), *map(str, numbers)],
            check=True,
            capture_output=True,
            timeout=warm_up_s + seconds + 30,
        )
        return Load(**json.loads(done.stdout))


def post(
    path: str, body: bytes, headers: dict[str, str], content_type: str = "application/json"
) -> bytes:
    """A whole POST request as bytes."""
    lines = [
        f"POST {path} HTTP/1.1",
        "host: 127.0.0.1",
        f"content-type: {content_type}",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def cpu_s(pid: int) -> float:
    """Processor time of a process and all its descendants so far, in seconds."""
    total = 0.0
    for each in family(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        total += (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return total


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found, left = [], [pid]
    while left:
        each = left.pop()
        found.append(each)
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                left += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def rss_bytes(pid: int) -> int:
    """Resident memory of one process."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
