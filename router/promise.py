"""Does a variant run as fast and answer as the reference as it was measured to, and if not, why?

A profile promises that 95 % of runs end within its p95. A run is late beyond `SLACK` times that: so
much a busy host may take. The promise is broken once the share of late runs surely exceeds 5 %. It
is the variant's own doing once that share surely exceeds by 5 % the one of the other variants, on
the same host meanwhile. Agreement is broken, by its own doing, once it is surely below the interval
of the build's. All by confidence sequences (`sequential.py`) over what was seen last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from router.sequential import Count, difference, rate
from variants.evidence import Interval

SLACK = 1.5
LATE_RATIO = 0.05
"""What a p95 leaves out."""

WINDOW = 512
"""What was counted before the last one to two windows of so many runs is forgotten."""

ALPHA = 0.01
NOTHING = Count()


class Lately:
    """A count of the last `WINDOW` observations, to twice as many. Plain numbers: it is quick."""

    __slots__ = ("_before", "_hits", "_n")

    def __init__(self) -> None:
        self._before = NOTHING
        self._hits = self._n = 0

    @property
    def count(self) -> Count:
        """What was counted."""
        return total((self._before, Count(hits=self._hits, n=self._n)))

    def add(self, hits: int, n: int) -> None:
        """Count `n` more observations."""
        self._hits += hits
        self._n += n
        if self._n >= WINDOW:
            self._before = Count(hits=self._hits, n=self._n)
            self._hits = self._n = 0


class Kept:
    """What was seen of one variant lately: late runs, and rows with the reference's answer.

    Its profile promises `promised_s`, the p95 of a run by its rows.
    """

    def __init__(self, promised_s: Callable[[int], float]) -> None:
        self.late = Lately()
        self.agreed = Lately()
        self._promised_s = promised_s
        self._limits_s: dict[int, float] = {}

    def ran(self, rows: int, run_s: float) -> None:
        """Count one run."""
        limit_s = self._limits_s.get(rows)
        if limit_s is None:
            limit_s = self._limits_s[rows] = SLACK * self._promised_s(rows)
        self.late.add(run_s > limit_s, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """`late`: its share of late runs; `beyond`: that less the share of all other variants.

    `agreed`: the share of rows with the reference's answer; `promised_agreement` is the least that
    the build's measurement allows, None where it measured none.
    """

    runs: int
    late: Interval
    beyond: Interval
    rows: int = 0
    agreed: Interval | None = None
    promised_agreement: float | None = None

    @property
    def agrees(self) -> bool:
        """Whether it may still agree as often as promised."""
        if self.agreed is None or self.promised_agreement is None:
            return True
        return self.agreed.high >= self.promised_agreement

    @property
    def broken(self) -> bool:
        """Whether a promise is surely not kept."""
        return self.late.low > LATE_RATIO or not self.agrees

    @property
    def own_doing(self) -> bool:
        """Whether one is broken, and surely not because of the host."""
        slow = self.late.low > LATE_RATIO and self.beyond.low > LATE_RATIO
        return slow or not self.agrees


def standing(
    late: Count,
    others_late: Count,
    agreed: Count = NOTHING,
    promised_agreement: float | None = None,
) -> Standing:
    """How a variant stands by what was seen of it and of all others."""
    return Standing(
        runs=late.n,
        late=rate(late, ALPHA),
        beyond=difference(late, others_late, ALPHA),
        rows=agreed.n,
        agreed=rate(agreed, ALPHA) if agreed.n else None,
        promised_agreement=promised_agreement,
    )


def total(counts: Sequence[Count]) -> Count:
    """All of them together."""
    return Count(hits=sum(c.hits for c in counts), n=sum(c.n for c in counts))
