"""Windows of a trace: one to tune on, later ones to report on, each brought to a mean load."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from benchmarks.routing import processes
from benchmarks.routing.traces import Trace
from variants.errors import Invalid

TRAINING_SHARE = 0.2
SHORTEST = 30
"""Arrivals that a window has at least; a short trace is cut into fewer windows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """Arrival times in seconds from each window's own start. `tests` follow `training` in time.

    `cv2` is the squared coefficient of variation of the gaps over the windows reported on. Each
    window is played `draws` times, with other requests and other luck.
    """

    name: str
    training: NDArray[np.float64]
    tests: tuple[NDArray[np.float64], ...]
    cv2: float
    draws: int = 1

    @property
    def bursty(self) -> bool:
        """Gaps at least twice as variable as Poisson's, or a shape that is bursty by design."""
        return self.cv2 >= 2 or self.name in processes.BURSTY


def of_trace(trace: Trace, *, most: int, arrivals: int) -> Windows:
    """The first fifth to tune on, and up to `most` disjoint windows of the rest.

    A window has at most `arrivals`; where the rest is longer, windows are spread over it evenly.
    Where it is shorter than so many windows, each is drawn as often as it takes to play as many
    requests: one that is late by chance must not be what tells policies apart.
    """
    n = len(trace.at_s)
    split = max(SHORTEST // 2, int(n * TRAINING_SHARE))
    count = max(1, min(most, (n - split) // SHORTEST))
    starts = np.linspace(split, n, count + 1).astype(int)
    tests = tuple(
        trace.at_s[start : min(stop, start + arrivals)] for start, stop in pairwise(starts)
    )
    training = trace.at_s[max(0, split - arrivals) : split]
    found = _windows(trace.name, training, tests)
    return replace(found, draws=max(1, most * arrivals // sum(map(len, found.tests))))


def of_process(name: str, *, seeds: int, arrivals: int) -> Windows:
    """One run of a synthetic process for each seed; seed 0 is the one to tune on."""
    runs = [processes.generate(name, arrivals, seed) for seed in range(seeds + 1)]
    return _windows(name, runs[0], runs[1:])


def _windows(
    name: str, training: NDArray[np.float64], tests: Sequence[NDArray[np.float64]]
) -> Windows:
    lasting = [times for times in tests if len(times) > 1 and times[-1] > times[0]]
    if not lasting or training[-1] <= training[0]:
        raise Invalid(f"{name}: windows of {len(training)} arrivals at one time have no rate")
    gaps = np.concatenate([np.diff(times) / np.mean(np.diff(times)) for times in lasting])
    return Windows(
        name=name,
        training=training - training[0],
        tests=tuple(times - times[0] for times in lasting),
        cv2=float(np.var(gaps)),
    )


def rescaled_us(at_s: NDArray[np.float64], rate_per_s: float) -> NDArray[np.int64]:
    """Times in microseconds whose mean rate is `rate_per_s`; every gap keeps its proportion."""
    span_s = float(at_s[-1] - at_s[0])
    factor = (len(at_s) - 1) / span_s / rate_per_s if span_s > 0 else 0.0
    return np.round((at_s - at_s[0]) * factor * 1e6).astype(np.int64)
