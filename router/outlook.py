"""What requests can expect of a worker, worked out once for all that are alike.

An `Outlook` belongs to one state of the candidates and one set of loaded variants; when either
changes, another one is made. Everything in it is computed when first asked for. Beside the run
itself, each takes a worker `handover_s` for its data to come and go.
"""

import math
from collections.abc import Iterable, Mapping
from functools import cached_property

from router.candidate import Candidate
from router.constraints import Objective
from router.gears import Gears, front, price_list
from router.kind import Kind
from router.utility import utilities, weight
from variants.profile import Quantiles

MOST_URGENT = 0

PAYS = 0.9
"""A batch must cost at most this share of as many single runs: it holds up whoever comes next."""

HANDOVER_STEP = 1.25
"""The time to hand a batch over is taken anew once it has changed by more than this factor."""


class Options:
    """What requests of one kind can expect here.

    `typical_s` (median) and `tail_s` (at the kind's percentile) hold the service time of one such
    request alone, in seconds, for each eligible variant that is loaded here; infinite where
    unmeasured. `fastest` is the one with the smallest tail, `quickest` that with the smallest
    median: where not even the fastest surely meets a deadline, the quickest is the likeliest to.
    Compared by identity, so that policies can look things up by it.
    """

    __slots__ = ("fastest", "fastest_s", "kind", "quickest", "quickest_s", "tail_s", "typical_s")

    def __init__(
        self, kind: Kind, typical_s: Mapping[str, float], tail_s: Mapping[str, float]
    ) -> None:
        self.kind = kind
        self.typical_s = typical_s
        self.tail_s = tail_s
        self.fastest = min(tail_s, key=lambda name: (tail_s[name], name))
        self.fastest_s = tail_s[self.fastest]
        self.quickest = min(typical_s, key=lambda name: (typical_s[name], name))
        self.quickest_s = typical_s[self.quickest]

    @property
    def rows(self) -> int:
        """Rows of one such request."""
        return self.kind.rows

    @property
    def percentile(self) -> int:
        """The quantile of the prediction that must meet the deadline."""
        return self.kind.percentile


class Outlook:
    """Options and gears of every kind, and the prices that the gears go by."""

    def __init__(
        self,
        candidates: Mapping[str, Candidate],
        loaded: frozenset[str],
        *,
        handover_s: float = 0.0,
    ) -> None:
        self.candidates = candidates
        self.loaded = loaded
        self._handover_s = handover_s
        self._options: dict[Kind, Options | None] = {}
        self._anywhere_s: dict[Kind, float] = {}
        self._gears: dict[int, GearsByKind] = {}
        self._utilities: dict[Objective, Mapping[str, float]] = {}
        self._paying: dict[tuple[str, int], tuple[int, ...]] = {}
        self._runs: dict[tuple[str, int], Quantiles] = {}
        self._larger: dict[tuple[str, int], bool] = {}
        self.last_level = self.last_tight = 0
        """Where the last searches for a price ended: where the next ones begin."""

    def options(self, kind: Kind) -> Options | None:
        """What such a request can expect here; None where no variant of it is loaded."""
        try:
            return self._options[kind]
        except KeyError:
            self._look(kind)
            return self._options[kind]

    def anywhere_s(self, kind: Kind) -> float:
        """Median of the fastest eligible variant wherever it is loaded, 0 if unmeasured."""
        if kind not in self._anywhere_s:
            self._look(kind)
        return self._anywhere_s[kind]

    def utility(self, objective: Objective) -> Mapping[str, float]:
        """The worth of an answer by variant."""
        found = self._utilities.get(objective)
        if found is None:
            found = self._utilities[objective] = utilities(objective, self.candidates.values())
        return found

    @cached_property
    def prices(self) -> list[float]:
        """Prices of worker time, in worth per second: 0, rising, ∞."""
        alone_s, shared_s = {}, {}
        for name, candidate in self.candidates.items():
            if candidate.service and candidate.blocked is None:
                alone_s[name] = candidate.mean_s(1) + self._handover_s
                shared_s[name] = self.share_s(name, 1, 1 << 30)
        objectives: tuple[Objective, ...] = ("accuracy", "cost")
        fronts = (
            front(times_s, self.utility(objective))
            for objective in objectives
            for times_s in (alone_s, shared_s)
        )
        return price_list(fronts, weight(MOST_URGENT))

    def run(self, variant: str, rows: int) -> Quantiles:
        """Quantiles of one run of so many rows (or of the nearest size that was measured)."""
        key = (variant, rows)
        found = self._runs.get(key)
        if found is None:
            service_s = self.candidates[variant].service_s
            found = self._runs[key] = Quantiles(
                p50=service_s(rows, 50), p95=service_s(rows, 95), p99=service_s(rows, 99)
            )
        return found

    def share_s(self, variant: str, rows: int, depth: int) -> float:
        """Worker time (mean) of so many rows in the cheapest run of up to `depth` rows."""
        candidate = self.candidates[variant]
        more_s = self._handover_s
        alone_s = candidate.mean_s(rows) + more_s
        sizes = self.paying_sizes(variant, depth)
        if not sizes:
            return alone_s
        service = candidate.service
        return min(alone_s, rows * min((service[size].mean + more_s) / size for size in sizes))

    def gears(self, depth: int) -> Mapping[Kind, Gears]:
        """The gears of every kind that has options here, where so many rows may share a run."""
        found = self._gears.get(depth)
        if found is None:
            found = self._gears[depth] = GearsByKind(self, depth)
        return found

    def paying_sizes(self, variant: str, max_batch: int) -> tuple[int, ...]:
        """Measured batch sizes up to `max_batch` that clearly cost less per row."""
        key = (variant, max_batch)
        sizes = self._paying.get(key)
        if sizes is None:
            sizes = self._paying[key] = _paying_sizes(
                self.candidates[variant], max_batch, self._handover_s
            )
        return sizes

    def grows(self, kinds: Iterable[Kind], rows: int) -> bool:
        """Whether so many rows would cost clearly less each in a larger run, the handover left out,
        on a variant that is eligible for one of these kinds."""
        return any(self._grows(name, rows) for kind in kinds for name in kind.eligible)

    def _grows(self, variant: str, rows: int) -> bool:
        key = (variant, rows)
        found = self._larger.get(key)
        if found is None:
            candidate = self.candidates.get(variant)
            found = candidate is not None and bool(_paying_sizes(candidate, 1 << 30, 0.0, rows))
            self._larger[key] = found
        return found

    def joining_s(self, variant: str, rows: int, depth: int) -> float:
        """Worker time (mean) by which so many rows prolong a run of up to `depth` rows."""
        sizes = self.paying_sizes(variant, depth)
        if not sizes:
            return self.candidates[variant].mean_s(rows)
        service = self.candidates[variant].service
        first, last = min(service), sizes[-1]
        return max(0.0, rows * (service[last].mean - service[first].mean) / (last - first))

    @cached_property
    def batching_pays(self) -> bool:
        """Whether any variant has a batch size that pays."""
        return any(self.paying_sizes(name, 1 << 30) for name in self.candidates)

    def _look(self, kind: Kind) -> None:
        anywhere_s = math.inf
        typical_s: dict[str, float] = {}
        tail_s: dict[str, float] = {}
        for name in kind.eligible:
            candidate = self.candidates.get(name)
            if candidate is None or candidate.blocked is not None:
                continue
            typical = tail = math.inf
            if candidate.service:
                typical = candidate.service_s(kind.rows, 50)
                tail = candidate.service_s(kind.rows, kind.percentile)
            anywhere_s = min(anywhere_s, typical)
            if name in self.loaded:
                typical_s[name], tail_s[name] = typical, tail
        self._anywhere_s[kind] = 0.0 if math.isinf(anywhere_s) else anywhere_s
        self._options[kind] = Options(kind, typical_s, tail_s) if tail_s else None


class Outlooks:
    """The outlooks of the candidates as they are now, by what a worker has loaded."""

    def __init__(self) -> None:
        self._candidates: Mapping[str, Candidate] = {}
        self._handover_s = 0.0
        self._made: dict[frozenset[str], Outlook] = {}

    def of(
        self,
        candidates: Mapping[str, Candidate],
        loaded: frozenset[str],
        *,
        handover_s: float = 0.0,
    ) -> Outlook:
        """What can be expected of a worker that has these variants.

        Candidates are the same as before where they are the same objects.
        """
        was_s = self._handover_s
        if not was_s / HANDOVER_STEP <= handover_s <= was_s * HANDOVER_STEP:
            self._handover_s = handover_s
            self._made.clear()
        was = self._candidates
        if candidates is not was and (
            len(candidates) != len(was)
            or any(was.get(name) is not one for name, one in candidates.items())
        ):
            self._candidates = candidates
            self._made.clear()
        found = self._made.get(loaded)
        if found is None:
            found = self._made[loaded] = Outlook(
                self._candidates, loaded, handover_s=self._handover_s
            )
        return found


class GearsByKind(dict[Kind, Gears]):
    """The gears of each kind at one depth of the queue, made when first asked for."""

    def __init__(self, outlook: Outlook, depth: int) -> None:
        super().__init__()
        self._outlook = outlook
        self._depth = depth

    def __missing__(self, kind: Kind) -> Gears:
        options = self._outlook.options(kind)
        assert options is not None, "kinds without options are not asked for"
        gears = self[kind] = self._gears(kind, options)
        return gears

    def _gears(self, kind: Kind, options: Options) -> Gears:
        outlook = self._outlook
        busy_s, tail_s = {}, {}
        for name, typical_s in options.typical_s.items():
            if math.isinf(typical_s):
                continue
            busy_s[name] = outlook.share_s(name, kind.rows, self._depth)
            tail_s[name] = options.tail_s[name]
        utility = outlook.utility(kind.objective)
        if not busy_s:  # nothing is measured, so nothing can be planned
            busy_s = tail_s = {options.fastest: 0.0}
        factor = weight(kind.urgency)
        worth = {name: factor * utility[name] for name in busy_s}
        return Gears(outlook.prices, busy_s, tail_s, worth)


def _paying_sizes(
    candidate: Candidate, max_batch: int, handover_s: float, rows: int = 1
) -> tuple[int, ...]:
    """Measured sizes above `rows` and up to `max_batch` that clearly cost less per row than it."""
    service = candidate.service
    if not service:
        return ()
    least = max((size for size in service if size <= rows), default=min(service))
    single_s = (service[least].mean + handover_s) / least
    return tuple(
        size
        for size in sorted(service)
        if least < size <= max_batch and (service[size].mean + handover_s) / size < PAYS * single_s
    )
