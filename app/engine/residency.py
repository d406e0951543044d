"""What should be open on which worker, from what was asked for lately (`router/residency.py`)."""

from collections import Counter
from collections.abc import Iterator, Mapping

from router.candidate import Candidate
from router.constraints import Objective
from router.residency import Demand, Item, Placement, plan
from router.weights import Weights

HALF_LIFE_S = 10.0
"""What was asked counts half after so long."""

REQUIRED_S = 10.0
"""A variant that alone could serve a request stays for so long, whatever it is worth."""

SPEED_SHARE = 0.3
"""Share of a demand that is counted as if it asked for speed: it will, in a burst."""

PRIOR_PER_S = 0.01
"""Requests a second that every model is taken to have, for any of its variants."""

Kind = tuple[str, tuple[str, ...], Objective]
"""Alike requests: the model, the keys of the variants that may serve them, what they optimise."""


class Residency:
    """Demand, and the plan made of it. Times come in as `now_s`, on one monotonic clock."""

    def __init__(self, *, budget_bytes: int, workers: int) -> None:
        self.budget_bytes = budget_bytes
        self.target: Placement = (frozenset(),) * workers
        self._counts: Counter[Kind] = Counter()
        self._rates: dict[Kind, float] = {}
        self._required: dict[str, float] = {}
        self._counted_s: float | None = None

    def asked(self, model: str, keys: tuple[str, ...], objective: Objective) -> None:
        """Count one request."""
        self._counts[model, keys, objective] += 1

    def require(self, key: str, now_s: float) -> None:
        """Have a variant open soon and for a while: something waits that no other can serve."""
        self._required[key] = now_s + REQUIRED_S

    def replan(
        self,
        items: Mapping[str, Item],
        candidates: Mapping[str, Candidate],
        current: Placement,
        now_s: float,
    ) -> None:
        """Set `target` for these variants, by key, while this is open."""
        self._count(now_s)
        self._required = {key: until for key, until in self._required.items() if until > now_s}
        demands = [
            demand
            for kind, rate in (*self._rates.items(), *_prior(items))
            for demand in _demands(kind, rate, candidates)
        ]
        self.target = plan(
            items,
            demands,
            current=current,
            budget_bytes=self.budget_bytes,
            required=sorted(self._required, key=lambda key: (-self._required[key], key)),
        )

    def _count(self, now_s: float) -> None:
        """Turn what was counted since the last time into rates."""
        passed_s = HALF_LIFE_S if self._counted_s is None else now_s - self._counted_s
        if passed_s <= 0:
            return
        self._counted_s = now_s
        kept = 0.5 ** (passed_s / HALF_LIFE_S)
        for kind in self._rates.keys() | self._counts.keys():
            now_per_s = self._counts[kind] / passed_s
            rate = kept * self._rates.get(kind, 0.0) + (1 - kept) * now_per_s
            self._rates[kind] = rate
        self._rates = {kind: rate for kind, rate in self._rates.items() if rate > PRIOR_PER_S / 100}
        self._counts.clear()


def _prior(items: Mapping[str, Item]) -> Iterator[tuple[Kind, float]]:
    for model in {item.model for item in items.values()}:
        keys = tuple(sorted(key for key in items if items[key].model == model))
        yield (model, keys, "accuracy"), PRIOR_PER_S


def _demands(kind: Kind, rate: float, candidates: Mapping[str, Candidate]) -> Iterator[Demand]:
    _, keys, objective = kind
    known = {key: candidates[key] for key in keys if key in candidates}
    if known:
        yield Demand(rate_per_s=rate * (1 - SPEED_SHARE), worth=_worth(known, objective))
        yield Demand(rate_per_s=rate * SPEED_SHARE, worth=_worth(known, "latency"))


def _worth(candidates: Mapping[str, Candidate], objective: Objective) -> dict[str, float]:
    """What each is worth beside the best of them; what is not measured, little."""
    good = {key: _goodness(candidate, objective) for key, candidate in candidates.items()}
    best = max(good.values())
    return {key: value / best if best > 0 else 1.0 for key, value in good.items()}


def _goodness(candidate: Candidate, objective: Objective) -> float:
    match objective:
        case "accuracy":
            return 0.01 if candidate.accuracy is None else candidate.accuracy.value
        case "cost":
            cost = candidate.cost_usd_per_million
            return 1e-9 if cost is None else 1 / max(cost, 1e-6)
        case Weights():
            return max(1e-9, objective.score(candidate))
        case "latency":
            if not candidate.service:
                return 1e-9
            return 1 / max(candidate.service_s(1, 50), 1e-9)
