"""One measurement of a server, and the rounds of all of them."""

import contextlib
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import load
from benchmarks.load import Generator
from benchmarks.peers.contestants import Contestant, Payload
from benchmarks.peers.running import NotStarted, Server, install, running

OPEN_RATE_PER_S = 300.0
CONNECTIONS: dict[Payload, tuple[int | str, ...]] = {
    "tiny": (1, 16, 64, "open"),
    "cnn": (16,),
    "cnn-binary": (16,),
}

Cell = tuple[str, Payload, int | str]
"""Server, payload and connections, or `open` for arrivals at a fixed rate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One measurement."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_request: float
    failed: int


@dataclass(kw_only=True, slots=True)
class Rounds:
    """All measurements, each of a server with the one of the reference right before it."""

    generator: Generator
    seconds: float
    pairs: dict[Cell, list[tuple[Sample, Sample]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def sample(self, server: Server, payload: Payload, connections: int | str) -> Sample:
        """Measure one server."""
        warm_up_s = min(0.5, self.seconds / 2)
        before = load.cpu_s(server.pid)
        done = self.generator.run(
            server.port,
            server.request(payload),
            connections=64 if connections == "open" else int(connections),
            seconds=self.seconds,
            warm_up_s=warm_up_s,
            rate_per_s=OPEN_RATE_PER_S if connections == "open" else 0.0,
        )
        spent = load.cpu_s(server.pid) - before
        whole = max(1.0, done.requests_per_s * (self.seconds + warm_up_s))
        return Sample(
            requests_per_s=done.requests_per_s,
            p50_ms=done.p50_ms,
            p99_ms=done.p99_ms,
            cpu_us_per_request=spent / whole * 1e6,
            failed=done.refused + done.broken,
        )

    def cells(self, name: str, server: Server, inline: Server, payloads: list[Payload]) -> None:
        """Every cell of one server for these payloads, each after the reference's."""
        for payload in payloads:
            for connections in CONNECTIONS[payload]:
                reference = self.sample(inline, payload, connections)
                own = self.sample(server, payload, connections)
                self.pairs.setdefault((name, payload, connections), []).append((reference, own))

    def rows(self) -> list[dict[str, Any]]:
        """One row for each cell: medians over rounds, and the ratio of the medians of its pairs."""
        found = []
        for (name, payload, connections), pairs in self.pairs.items():
            own = [pair[1] for pair in pairs]
            inline = statistics.median(pair[0].requests_per_s for pair in pairs)
            rate = statistics.median(sample.requests_per_s for sample in own)
            found.append(
                {
                    "server": name,
                    "payload": payload,
                    "concurrency": connections,
                    "requests_per_s": rate,
                    "p50_ms": statistics.median(sample.p50_ms for sample in own),
                    "p99_ms": statistics.median(sample.p99_ms for sample in own),
                    "cpu_us_per_request": statistics.median(s.cpu_us_per_request for s in own),
                    "ratio_to_inline": rate / inline if inline else 0.0,
                    "ratios": [round(b.requests_per_s / a.requests_per_s, 3) for a, b in pairs],
                    "failed": sum(sample.failed for sample in own),
                }
            )
        return found


Entry = tuple[str, Callable[[Path], "contextlib.AbstractContextManager[Server]"], list[Payload]]
"""A server's title, how it is started with an artifact, and the payloads of that artifact."""


def entries(
    contestants: list[Contestant], environments: Path, scratch: Path, rounds: Rounds
) -> Iterator[Entry]:
    """Every peer that can be installed, once for each artifact."""
    for contestant in contestants:
        print(f"{contestant.title}: environment", file=sys.stderr)
        try:
            python = install(contestant, environments)
        except NotStarted as error:
            rounds.failures[contestant.title] = str(error)
            continue
        groups: list[list[Payload]] = [["tiny"], ["cnn"]]
        if contestant.binary:
            groups[1].append("cnn-binary")
        for payloads in groups:

            def start(
                artifact: Path,
                contestant: Contestant = contestant,
                python: Path = python,
                payload: Payload = payloads[0],
            ) -> "contextlib.AbstractContextManager[Server]":
                log = scratch / f"{contestant.name}.log"
                return running(contestant, python, artifact, payload, log)

            yield contestant.title, start, payloads


def play(
    rounds: Rounds,
    entries: list[Entry],
    inline: dict[Payload, Server],
    artifacts: dict[Payload, Path],
    count: int,
) -> None:
    """Every entry `count` times, in an order of its own each time."""
    shuffled = random.Random(0)  # noqa: S311  # an order, no secret
    for number in range(count):
        shuffled.shuffle(entries)
        for title, start, payloads in entries:
            if title in rounds.failures:
                continue
            print(f"round {number + 1}: {title}, {payloads[0]}", file=sys.stderr)
            try:
                with start(artifacts[payloads[0]]) as server:
                    rounds.cells(title, server, inline[payloads[0]], payloads)
            except NotStarted as error:
                rounds.failures[title] = str(error)
