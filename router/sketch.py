"""Quantiles of what was seen lately, in constant memory.

A t-digest with forward decay: each new value weighs more than the one before it, so that old ones
count less and less without being touched. Deterministic: equal values give equal quantiles.
Sources: T. Dunning, "The t-digest: efficient estimates of distributions" (2021); G. Cormode et al.,
"Forward decay: a practical time decay model for streaming systems", ICDE 2009.
"""

from collections.abc import Sequence

from fastdigest import TDigest

CENTROIDS = 100
HEAVIEST = 1e30
"""The weight at which all are scaled back; far below what a float holds."""

LIGHTEST = 1e-6
"""What weighs less than this, beside the newest value, is forgotten when they are."""


class Sketch:
    """The last `memory` values or so, as a distribution.

    Times come in as `now_s`, on one monotonic clock. While values come, only their number counts:
    each halves the weight of those about 0.7 `memory` before it. After a gap longer than `rest_s`
    whatever was seen counts half as much for every `half_life_s` of the gap.
    """

    def __init__(self, *, memory: float, rest_s: float, half_life_s: float) -> None:
        self._digest = TDigest(CENTROIDS)
        self._growth = 1 + 1 / memory
        self._rest_s = rest_s
        self._half_life_s = half_life_s
        self._weight = 1.0
        self._seen_s = 0.0

    def add(self, value: float, now_s: float) -> None:
        """Take in one value."""
        gap_s = now_s - self._seen_s
        if gap_s > self._rest_s and self._digest:
            self._scale_back(2.0 ** -min(gap_s / self._half_life_s, 60.0))
        self._seen_s = now_s
        self._weight *= self._growth
        if self._weight > HEAVIEST:
            self._scale_back(1.0)
        self._digest.update(value, self._weight)

    def count(self, now_s: float) -> float:
        """How many values the sketch is worth now: at most about `memory`, less after a gap."""
        gap_s = now_s - self._seen_s
        held = self._digest.mass() / self._weight if self._digest else 0.0
        return held * 2.0 ** -(gap_s / self._half_life_s) if gap_s > self._rest_s else held

    def quantiles(self, ranks: Sequence[float]) -> list[float]:
        """The values at these ranks, from 0 to 1. Raises `ValueError` where nothing was seen."""
        return self._digest.quantile_vec(ranks)

    def _scale_back(self, kept_ratio: float) -> None:
        """Give the next value about the weight 1, and what was seen that ratio of its worth."""
        scale = kept_ratio / self._weight
        kept = [(mean, w * scale) for mean, w in self._digest.centroids if w * scale > LIGHTEST]
        self._digest = TDigest(CENTROIDS)
        if kept:
            means, weights = zip(*kept, strict=True)
            self._digest.batch_update(means, weights)
        self._weight = 1.0
