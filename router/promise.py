"""Does a variant run as fast as its profile promised, and if not, is that its own doing?

A profile promises that 95 % of runs end within its p95. A run is late beyond `SLACK` times that: so
much a busy host may take. The promise is broken once the share of late runs surely exceeds 5 %. It
is the variant's own doing once that share surely exceeds by 5 % the one of the other variants, on
the same host meanwhile. Both by confidence sequences (`sequential.py`) over the last runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from router.sequential import Count, difference, rate
from variants.evidence import Interval

SLACK = 1.5
LATE_RATIO = 0.05
"""What a p95 leaves out."""

WINDOW = 512
"""What was counted before the last one to two windows of so many runs is forgotten."""

ALPHA = 0.01


class Kept:
    """Late runs among the last ones of one variant."""

    def __init__(self) -> None:
        self._before = Count()
        self._now = Count()

    @property
    def count(self) -> Count:
        """Late runs of the last `WINDOW` to twice as many."""
        return total((self._before, self._now))

    def observe(self, run_s: float, promised_s: float) -> None:
        """Count one run whose profile promises a p95 of `promised_s`."""
        self._now = self._now.plus(run_s > SLACK * promised_s)
        if self._now.n == WINDOW:
            self._before, self._now = self._now, Count()


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """`late`: its share of late runs. `beyond`: that less the share of all other variants."""

    runs: int
    late: Interval
    beyond: Interval

    @property
    def broken(self) -> bool:
        """Whether the promise is surely not kept."""
        return self.late.low > LATE_RATIO

    @property
    def own_doing(self) -> bool:
        """Whether it is broken, and surely not because of the host."""
        return self.broken and self.beyond.low > LATE_RATIO


def standing(mine: Count, others: Count) -> Standing:
    """How a variant stands by its late runs and those of all others."""
    return Standing(runs=mine.n, late=rate(mine, ALPHA), beyond=difference(mine, others, ALPHA))


def total(counts: Sequence[Count]) -> Count:
    """All of them together."""
    return Count(hits=sum(c.hits for c in counts), n=sum(c.n for c in counts))
