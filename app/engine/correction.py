"""Service times corrected by what workers really take.

A profile is a prior: the same artifact may run slower on a busy host. Each variant keeps the
exponentially weighted mean of measured ÷ predicted time (weight 0.05 a batch), and its candidate
is rebuilt when that moved by more than 10 %, so that routing stays cheap.

A variant that looks too slow gets no requests, and without requests nothing would ever show that
the host has become quick again. So a correction that nothing has confirmed for ten seconds fades:
half of it is forgotten every ten seconds.
"""

from dataclasses import replace

from router.candidate import Candidate
from variants.profile import Quantiles

WEIGHT = 0.05
REBUILD_AT = 0.1
BOUNDS = (0.25, 8.0)
FADE_S = 10.0


class Correction:
    """The live candidate of one variant. Times come in as `now_s`, on one monotonic clock."""

    def __init__(self, prior: Candidate) -> None:
        self._prior = prior
        self._ratio = 1.0
        self._applied = 1.0
        self._seen_s = 0.0
        self._candidate = prior

    def candidate(self, now_s: float) -> Candidate:
        """The prior with its service times as they are now."""
        unseen_s = now_s - self._seen_s
        if unseen_s > FADE_S and self._ratio != 1.0:
            self._seen_s = now_s
            self._move(1 + (self._ratio - 1) * 0.5 ** (unseen_s / FADE_S))
        return self._candidate

    def observe(self, rows: int, run_s: float, now_s: float) -> float:
        """Take in one batch's run time and return measured ÷ predicted median."""
        predicted = self._prior.service_s(rows, 50) if self._prior.service else run_s
        measured = run_s / predicted if predicted > 0 else 1.0
        low, high = BOUNDS
        self._seen_s = now_s
        self._move(self._ratio + WEIGHT * (min(max(measured, low), high) - self._ratio))
        return measured

    def _move(self, ratio: float) -> None:
        self._ratio = ratio
        if abs(ratio / self._applied - 1) > REBUILD_AT:
            self._applied = ratio
            service = {batch: _scale(q, ratio) for batch, q in self._prior.service.items()}
            self._candidate = replace(self._prior, service=service)


def _scale(quantiles: Quantiles, ratio: float) -> Quantiles:
    return Quantiles(
        p50=quantiles.p50 * ratio, p95=quantiles.p95 * ratio, p99=quantiles.p99 * ratio
    )
