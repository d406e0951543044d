"""Service times corrected by what workers really take.

A profile is a prior: the same artifact may run slower on a busy host. Each variant keeps the
exponentially weighted mean of measured ÷ predicted time (weight 0.05 a batch), and its candidate
is rebuilt when that moved by more than 10 %, so that routing stays cheap.
"""

from dataclasses import replace

from router.candidate import Candidate
from variants.profile import Quantiles

WEIGHT = 0.05
REBUILD_AT = 0.1
BOUNDS = (0.25, 8.0)


class Correction:
    """The live candidate of one variant."""

    def __init__(self, prior: Candidate) -> None:
        self._prior = prior
        self._ratio = 1.0
        self._applied = 1.0
        self.candidate = prior

    def observe(self, rows: int, run_s: float) -> float:
        """Take in one batch's run time and return measured ÷ predicted median."""
        predicted = self._prior.service_s(rows, 50) if self._prior.service else run_s
        measured = run_s / predicted if predicted > 0 else 1.0
        low, high = BOUNDS
        self._ratio += WEIGHT * (min(max(measured, low), high) - self._ratio)
        if abs(self._ratio / self._applied - 1) > REBUILD_AT:
            self._applied = self._ratio
            service = {batch: _scale(q, self._ratio) for batch, q in self._prior.service.items()}
            self.candidate = replace(self._prior, service=service)
        return measured


def _scale(quantiles: Quantiles, ratio: float) -> Quantiles:
    return Quantiles(
        p50=quantiles.p50 * ratio, p95=quantiles.p95 * ratio, p99=quantiles.p99 * ratio
    )
