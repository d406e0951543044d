"""Scores, latency, memory and load time of one artifact on one runtime of this host.

Call `profile` in a fresh process: resident memory is a difference of readings, which means
something only while nothing else allocates.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from variants import runtimes
from variants.errors import Invalid
from variants.evaluation import EvaluationSet
from variants.profile import BATCHES, Profile, Quantiles, host_fingerprint
from variants.runtimes import Session, Tensors

Progress = Callable[[float], None]
"""Told the share of the work that is done, from 0 to 1."""

EVALUATION_BATCH = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """Which batch sizes to measure, each until `seconds` have passed and `samples` are in."""

    seconds: float = 0.3
    samples: int = 50
    batches: tuple[int, ...] = BATCHES


def resident_bytes() -> int:
    """Resident set size of this process (Linux `/proc/self/statm`, second field, in pages)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def profile(
    runtime: str, path: Path, rows: Tensors, *, threads: int, effort: Effort, progress: Progress
) -> tuple[Session, Profile]:
    """The loaded session and its profile over the batch sizes of `effort`.

    `rows` are real inputs, each `[n ≥ 1, …]`, repeated to fill a batch. Memory is what loading
    and running every batch size added to the process, the library itself left out.
    """
    module = runtimes.find(runtime)
    version = module.version()
    before = resident_bytes()
    start = time.perf_counter()
    session = module.load(path, threads)
    load_s = time.perf_counter() - start
    latency_s: dict[int, Quantiles] = {}
    for index, batch in enumerate(effort.batches):
        latency_s[batch] = _latency(session, rows, batch, effort)
        progress((index + 1) / len(effort.batches))
    return session, Profile(
        runtime=runtime,
        runtime_version=version,
        device="cpu",
        host=host_fingerprint(),
        threads=threads,
        latency_s=latency_s,
        throughput_per_s=max(batch / q.p50 for batch, q in latency_s.items()),
        memory_bytes=max(0, resident_bytes() - before),
        load_s=load_s,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _latency(session: Session, rows: Tensors, batch: int, effort: Effort) -> Quantiles:
    inputs = {name: np.resize(t, (batch, *t.shape[1:])) for name, t in rows.items()}
    for _ in range(3):
        session.run(inputs)
    samples: list[float] = []
    end = time.perf_counter() + effort.seconds
    while len(samples) < effort.samples or time.perf_counter() < end:
        start = time.perf_counter()
        session.run(inputs)
        samples.append(time.perf_counter() - start)
    p50, p95, p99 = (float(q) for q in np.quantile(samples, (0.50, 0.95, 0.99)))
    return Quantiles(p50=p50, p95=p95, p99=p99)


def scores(session: Session, evaluation: EvaluationSet, progress: Progress) -> NDArray[np.float32]:
    """The first output on the whole set, `[n, classes]`.

    Raises `Invalid` where the output has another shape or holds NaN.
    """
    parts: list[NDArray[np.float32]] = []
    done = 0
    for inputs, labels in evaluation.batches(EVALUATION_BATCH):
        found = next(iter(session.run(inputs).values()))
        if found.ndim != 2 or len(found) != len(labels):
            raise Invalid(
                f"the first output has shape {list(found.shape)} for {len(labels)} rows; "
                "classification needs [batch, classes]"
            )
        if not np.isfinite(found).all():
            raise Invalid("the first output holds NaN or infinity on the evaluation set")
        parts.append(found.astype(np.float32))
        done += len(labels)
        progress(done / len(evaluation.labels))
    return np.concatenate(parts)
