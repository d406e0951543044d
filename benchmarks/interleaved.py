"""Latencies that can be compared on a noisy machine: taken in turns, told as ratios.

Each round runs every contestant for a moment, in an order of its own; a ratio is the median over
rounds of the quotient of the two medians within a round.
"""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

WARM_UP = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """One contestant: median seconds a call over all rounds, and how many times faster than the
    baseline it is, with the lowest and the highest round.
    """

    p50_s: float
    faster: float
    faster_low: float
    faster_high: float


def compare(
    contestants: Mapping[str, Callable[[], object]],
    baseline: str,
    *,
    rounds: int = 7,
    seconds: float = 0.1,
) -> dict[str, Timing]:
    """Time every contestant in turns; `seconds` each in each round."""
    order = list(contestants)
    shuffled = random.Random(0)  # noqa: S311  # an order, no secret
    for call in contestants.values():
        for _ in range(WARM_UP):
            call()
    medians: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        shuffled.shuffle(order)
        for name in order:
            medians[name].append(_median_s(contestants[name], seconds))
    base = medians[baseline]
    found = {}
    for name in contestants:
        ratios = [b / own for b, own in zip(base, medians[name], strict=True)]
        found[name] = Timing(
            p50_s=statistics.median(medians[name]),
            faster=statistics.median(ratios),
            faster_low=min(ratios),
            faster_high=max(ratios),
        )
    return found


def _median_s(call: Callable[[], object], seconds: float) -> float:
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while not samples or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)
