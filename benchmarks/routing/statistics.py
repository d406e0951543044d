"""Whether a difference is one: paired over windows, with a bootstrap interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

RESAMPLES = 2000
FEWEST = 5
"""With fewer windows even all of them on one side may be chance."""

Verdict = Literal["win", "tie", "loss"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Mean paired difference, ours − theirs, with its 95 % interval, over so many windows."""

    mean: float
    low: float
    high: float
    windows: int

    @property
    def verdict(self) -> Verdict:
        """A win or a loss where the interval excludes 0, else a tie; a tie with few windows."""
        if self.windows < FEWEST:
            return "tie"
        if self.low > 0:
            return "win"
        return "loss" if self.high < 0 else "tie"


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """The paired difference over windows that both have played.

    Percentile bootstrap over windows (B. Efron, "Bootstrap methods: another look at the
    jackknife", Ann. Statist. 7, 1979), seeded, so that equal inputs give equal intervals. Raises
    `ValueError` where the two differ in length or are empty.
    """
    paired = np.array([a - b for a, b in zip(ours, theirs, strict=True)])
    if not paired.size:
        raise ValueError("no windows to compare")
    picks = np.random.default_rng(0).integers(paired.size, size=(RESAMPLES, paired.size))
    low, high = np.percentile(paired[picks].mean(axis=1), (2.5, 97.5))
    return Difference(
        mean=float(paired.mean()), low=float(low), high=float(high), windows=len(paired)
    )
