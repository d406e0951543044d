"""What is open on which worker, by what was asked for lately (`router/residency.py` plans it)."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from operator import itemgetter

import structlog

from app.engine.slot import Slot
from app.engine.worker import LoadFailed, Loading, WorkerLost
from app.metrics import Metrics
from router.candidate import Candidate
from router.constraints import Objective
from router.residency import Demand, Item, Placement, next_move, plan
from router.weights import Axis, Weights

log = structlog.get_logger()

LOOK_S = 1.0
"""Time between two looks at what should be open where."""

HALF_LIFE_S = 10.0
"""What was asked counts half after so long."""

REQUIRED_S = 10.0
"""A variant that alone could serve a request stays for so long, whatever it is worth."""

FAILED_S = 60.0
"""What could not be opened is planned for again after so long."""

SPEED_SHARE = 0.3
"""Share of a demand that is counted as if it asked for speed: it will, in a burst."""

PRIOR_PER_S = 0.01
"""Requests a second that every model is taken to have, for any of its variants."""

MOST_KINDS = 32
"""So many kinds of requests are planned for, those that come most often."""

Kind = tuple[str, tuple[str, ...], Objective]
"""Alike requests: the model, the keys of the variants that may serve them, what they optimise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """What could be open, by key, and the keys that each waiting request may be served by."""

    items: Mapping[str, Item]
    candidates: Mapping[str, Candidate]
    loadings: Mapping[str, Loading]
    waiting: Sequence[tuple[str, ...]]


class Residency:
    """Demand, the plan made of it, and the loads and unloads that follow it.

    `offer` tells what there is at this moment. `target` is what each worker should have open,
    `known` what it was planned for, and `too_large` what will not be opened, because it alone takes
    more than the budget. Times come in as `now_s`, on one monotonic clock.
    """

    def __init__(
        self,
        *,
        budget_bytes: int,
        slots: Sequence[Slot],
        offer: Callable[[], Offer],
        metrics: Metrics,
    ) -> None:
        self.target: Placement = (frozenset(),) * len(slots)
        self.known: frozenset[str] = frozenset()
        self.too_large: frozenset[str] = frozenset()
        self._budget_bytes = budget_bytes
        self._slots = slots
        self._offer = offer
        self._metrics = metrics
        self._counts: Counter[Kind] = Counter()
        self._rates: dict[Kind, float] = {}
        self._required: dict[str, float] = {}
        self._failed: dict[str, float] = {}
        self._counted_s: float | None = None
        self._urgent = asyncio.Event()

    def asked(self, model: str, keys: tuple[str, ...], objective: Objective) -> None:
        """Count one request; what is rare among very many kinds is not told apart."""
        kind = (model, keys, objective)
        if kind not in self._counts and len(self._counts) >= MOST_KINDS:
            kind = (model, keys, "accuracy")
        self._counts[kind] += 1

    def require(self, key: str, now_s: float) -> None:
        """Have a variant open soon and for a while: something waits that no other can serve."""
        self._required[key] = now_s + REQUIRED_S
        self._urgent.set()

    def openable(self) -> frozenset[str]:
        """What is open, or could be opened for who asks for it."""
        return self.known - self._failed.keys() - self.too_large

    def spare(self) -> frozenset[str]:
        """What is open nowhere because it is not worth it."""
        return self.known - frozenset().union(*self.target)

    async def keep(self) -> None:
        """Follow the demand for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._urgent.wait()
            self._urgent.clear()
            try:
                self.replan(time.monotonic())
                while await self._move():
                    pass
            except (LoadFailed, WorkerLost) as error:
                log.warning("residency_move_failed", error=str(error))
            except Exception:  # the slow loop must not end; what is open goes on serving
                log.exception("residency_failed")

    def replan(self, now_s: float) -> None:
        """Set `target` by what was asked for lately, leaving out what could not be opened."""
        offer, current = self._offer(), self._open()
        self._count(now_s)
        here = frozenset().union(*current)
        self._failed = {
            key: until
            for key, until in self._failed.items()
            if until > now_s and key in offer.items and key not in here
        }
        items = {key: item for key, item in offer.items.items() if key not in self._failed}
        for keys in offer.waiting:
            if here.isdisjoint(keys):
                self._required[keys[0]] = now_s + REQUIRED_S
        self._required = {key: until for key, until in self._required.items() if until > now_s}
        demands = [
            demand
            for kind, rate in (*self._rates.items(), *_prior(items))
            for demand in _demands(kind, rate, offer.candidates)
        ]
        self.known = frozenset(items)
        self.target = plan(
            items,
            demands,
            current=current,
            budget_bytes=self._budget_bytes,
            required=sorted(self._required, key=lambda key: (-self._required[key], key)),
        )
        self.too_large = frozenset(
            key for key in self.spare() if items[key].size_bytes > self._budget_bytes
        )

    async def _move(self) -> bool:
        """Whether one load or unload towards the target was made."""
        if not all(slot.settled for slot in self._slots):
            return False
        offer, actual = self._offer(), self._open()
        here = frozenset().union(*actual)
        able = [here.intersection(keys) for keys in offer.waiting]
        move = next_move(
            actual,
            self.target,
            offer.items,
            budget_bytes=self._budget_bytes,
            kept=frozenset().union(*(keys for keys in able if len(keys) == 1)),
        )
        if move is None:
            return False
        slot = self._slots[move.worker]
        if move.kind == "load":
            try:
                await slot.load(offer.loadings[move.key])
            except LoadFailed:
                self._failed[move.key] = time.monotonic() + FAILED_S
                raise
        else:
            await slot.unload(move.key)
        if item := offer.items.get(move.key):
            self._metrics.moved(item.model, move.kind)
        return self._open() != actual

    def _open(self) -> Placement:
        return tuple(slot.loaded for slot in self._slots)

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
        heaviest = nlargest(MOST_KINDS, self._rates.items(), key=itemgetter(1))
        self._rates = {kind: rate for kind, rate in heaviest if rate > PRIOR_PER_S / 100}
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
    """What each is worth: 1 the best for this objective, half of it the worst; any is an answer."""
    scores = {key: _score(candidate, objective) for key, candidate in candidates.items()}
    known = [score for score in scores.values() if score is not None]
    axis = Axis(worst=min(known, default=0.0), best=max(known, default=0.0))
    return {key: 0.5 + 0.5 * axis.share(score) for key, score in scores.items()}


def _score(candidate: Candidate, objective: Objective) -> float | None:
    """More is better; None where it is not measured."""
    match objective:
        case "accuracy":
            return None if candidate.accuracy is None else candidate.accuracy.value
        case "cost":
            cost = candidate.cost_usd_per_million
            return None if cost is None else -cost
        case "latency":
            return -candidate.service_s(1, 50) if candidate.service else None
        case Weights():
            return objective.score(candidate)
