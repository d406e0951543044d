"""Worker time has a price, and every request takes the variant that is worth most at that price.

The price is the smallest at which what waits and what is to arrive within the horizon fits into
the time of all workers, and at which the queue, served in order, meets its deadlines. In a burst
the price rises and quality steps down together, inside each caller's bounds; when the burst is
over the price falls and quality steps back up. Where time is scarce for longer, everybody runs at
the one level that the fleet can hold, rather than the first well and the next ones not at all; and
what is worth less than its time costs goes last, so that the same time answers more callers.

Where even the fastest variants cannot save the queue, the requests that are worth least for their
time are passed over, no more of them than must be (J. M. Moore, "An n job, one machine sequencing
algorithm for minimizing the number of late jobs", Management Science 15, 1968). They stay in the
queue until they are hopeless. `router/gears.py` tells what a price means and where it comes from.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from heapq import heappop, heappush
from itertools import accumulate
from operator import add, le

from router.batching import fill
from router.gears import Gears
from router.kind import Kind
from router.utility import weight
from router.view import Choice, View

HOPE = 0.8
"""Who is worth less than this share of the price lets others go first.

The price may fall again: what is expected may not come, and who was passed over is lost then.
"""


def choose(view: View) -> Choice:
    """The first request that is worth its time, on its variant at the price of time."""
    outlook = view.outlook
    under_load = outlook.gears(view.max_batch if outlook.batching_pays else 1)
    fleet = _fleet(view)
    level = _fair_level(view, under_load, fleet)
    price = outlook.prices[level]
    least = price * HOPE
    if least > 0.0 and min([under_load[kind].worth_per_s for kind in view.present]) < least:
        worthy = [
            index
            for index, kind in enumerate(view.kinds)
            if under_load[kind].worth_per_s >= least or not view.queue[index].drop_late
        ]
        if 0 < len(worthy) < len(view.kinds):
            view = view.only(worthy)
    gears_of = outlook.gears(_depth(view))
    plan = _Plan(view, gears_of, fleet)
    if not plan.unhurried(level) and not plan.fits(level):
        top = len(outlook.prices) - 1
        if not plan.fits(top):
            view = view.only(plan.saved(top))
            plan = _Plan(view, gears_of, fleet)
        level = _least(level + 1, top, outlook.last_tight, plan.fits)
        outlook.last_tight = level
    variant = plan.surest(plan.head_variant(level), level)
    return Choice(variant=variant, requests=plan.batch(variant, level))


def _depth(view: View) -> int:
    """Rows that may share a run, as a power of two: what waits, and no more than a batch."""
    waiting = min(len(view.queue), view.max_batch)
    return 1 << (waiting.bit_length() - 1)


def _fair_level(view: View, gears_of: Mapping[Kind, Gears], fleet: tuple[int, float]) -> int:
    """The level of the price at which queue and expected arrivals just fill the workers' time.

    The highest that is still too cheap: at a price, those whom it divides take what is left.
    """
    forecast = view.forecast
    if forecast is None:
        return 0
    arrived, each = forecast.expected(view.now_s)
    if not each:
        return 0
    known = view.outlook.options
    demand: list[tuple[float, list[float]]]
    demand = [(count, gears_of[kind].served_s) for kind, count in view.counts.items()]
    demand += [
        (count * each, gears_of[kind].served_s)
        for kind, count in arrived.items()
        if known(kind) is not None
    ]
    workers, busy_s = fleet
    time_s = max(0.0, forecast.horizon_s * workers - busy_s)

    def fits(level: int) -> bool:
        total_s = 0.0
        for count, served_s in demand:
            total_s += count * served_s[level]
        return total_s <= time_s

    outlook = view.outlook
    level = _least(0, len(outlook.prices) - 1, outlook.last_level, fits)
    outlook.last_level = level
    return max(0, level - 1)


def _least(low: int, high: int, hint: int, fits: Callable[[int], bool]) -> int:
    """The least level from `low` to `high` that fits; `high` does, and what is above one that does.

    Looks near `hint` first, in steps that double, so that a good one saves most of the questions.
    """
    at, step = min(max(hint, low), high), 1
    if at == high or fits(at):
        high = at
        while high > low:
            at = max(low, high - step)
            if not fits(at):
                low = at + 1
                break
            high, step = at, 2 * step
    else:
        low = at + 1
        while low < high:
            at = min(high, low + step - 1)
            if at == high or fits(at):
                high = at
                break
            low, step = at + 1, 2 * step
    return low + bisect_left(range(low, high), True, key=fits)


def _fleet(view: View) -> tuple[int, float]:
    """The workers that can do what this one can, with it, and the seconds until they have done."""
    peers = [other for other in view.others if view.loaded <= other.loaded]
    return 1 + len(peers), sum(max(0.0, peer.free_at_s - view.now_s) for peer in peers)


class _Plan:
    """The queue played forward in order, everybody at the gear of one level."""

    def __init__(
        self, view: View, gears_of: Mapping[Kind, Gears], fleet: tuple[int, float]
    ) -> None:
        self._view = view
        self._gears = {kind: gears_of[kind] for kind in view.present}
        self._head = gears_of[view.kinds[0]]
        self._others = view.kinds[1:]
        self._others_due_s = view.due_s[1:]
        self._ready_s = view.now_s + view.overhead_s
        self._left_s = view.due_s[0] - self._ready_s
        self._workers, self._busy_s = fleet
        self._narrow = self._left_s < self._head.tail_s[0]

    def unhurried(self, level: int) -> bool:
        """Whether everybody meets the deadline in any order: a cheap `fits` for easy queues."""
        if self._narrow:
            return False
        before_s = longest_s = 0.0
        counts = self._view.counts
        for kind, one in self._gears.items():
            before_s += counts[kind] * one.busy_s[level]
            longest_s = max(longest_s, one.tail_s[level])
        start_s = min(before_s, (self._busy_s + before_s) / self._workers)
        return self._ready_s + start_s + longest_s <= min(self._view.due_s)

    def fits(self, level: int) -> bool:
        """Whether everybody meets the deadline.

        A request starts once this worker has done all before it, or all workers their share of it,
        whichever is sooner; neither is ever too optimistic.
        """
        if self._narrow:
            first_s = self._view.head.typical_s[self.head_variant(level)]
        elif self._head.tail_s[level] > self._left_s:
            return False
        else:
            first_s = self._head.busy_s[level]
        if not self._others:
            return True
        busy_s = {kind: one.busy_s[level] for kind, one in self._gears.items()}
        tail_s = {kind: one.tail_s[level] for kind, one in self._gears.items()}
        starts_s: Iterable[float]
        if self._workers == 1:
            initial_s = self._ready_s + first_s
            starts_s = accumulate(map(busy_s.__getitem__, self._others), initial=initial_s)
        else:
            before_s = list(accumulate(map(busy_s.__getitem__, self._others), initial=first_s))
            alone = bisect_right(before_s, self._busy_s / (self._workers - 1))
            shared_s, workers = self._ready_s + self._busy_s / self._workers, self._workers
            starts_s = [self._ready_s + each_s for each_s in before_s[:alone]]
            starts_s += [shared_s + each_s / workers for each_s in before_s[alone:]]
        ends_s = map(add, starts_s, map(tail_s.__getitem__, self._others))
        return all(map(le, ends_s, self._others_due_s))

    def saved(self, level: int) -> list[int]:
        """Indexes of whom to serve where not all can be; those worth least are passed over."""
        workers, ahead_s, ready_s = self._workers, self._busy_s, self._ready_s
        numbers = {
            kind: (one.worth_per_s, one.busy_s[level], one.tail_s[level])
            for kind, one in self._gears.items()
        }
        kept: list[tuple[float, int, float]] = []
        passed: set[int] = set()
        before_s = 0.0
        for index, (kind, due_s) in enumerate(zip(self._view.kinds, self._view.due_s, strict=True)):
            worth_per_s, busy_s, tail_s = numbers[kind]
            latest_s = due_s - ready_s - tail_s
            heappush(kept, (worth_per_s, index, busy_s))
            while before_s > latest_s and (ahead_s + before_s) / workers > latest_s:
                _, least, freed_s = heappop(kept)
                passed.add(least)
                if least == index:
                    break
                before_s -= freed_s
            else:
                before_s += busy_s
        return [index for index in range(len(self._view.kinds)) if index not in passed] or [0]

    def head_variant(self, level: int) -> str:
        """The first request's variant: of those that keep its own deadline where not all do."""
        view = self._view
        if not self._narrow:
            if self._left_s == math.inf and view.queue[0].deadline_s != math.inf:
                return view.head.quickest
            return self._head.variants[level]
        options, price = view.head, view.outlook.prices[level]
        if price == math.inf:
            return options.fastest
        price /= weight(options.kind.urgency)
        utility = view.outlook.utility(options.kind.objective)
        left_s = self._left_s
        return min(
            (name for name, tail_s in options.tail_s.items() if tail_s <= left_s),
            key=lambda name: (
                price * options.typical_s[name] - utility[name],
                options.tail_s[name],
                name,
            ),
            default=options.fastest,  # it is in time, but for the last digit of a difference
        )

    def surest(self, variant: str, level: int) -> str:
        """The same, or a quicker one that is worth more once the chance to be late is counted."""
        view, left_s = self._view, self._left_s
        options, outlook = view.head, view.outlook
        if left_s == math.inf or math.isinf(options.typical_s[variant]):
            return variant
        rows = max(options.rows, _depth(view)) if outlook.batching_pays else options.rows
        chance = outlook.run(variant, rows).chance(left_s)
        if chance == 1.0:
            return variant
        utility, price = outlook.utility(options.kind.objective), outlook.prices[level]
        price = 0.0 if price == math.inf else price / weight(options.kind.urgency)
        best, most = variant, utility[variant] * chance - price * options.typical_s[variant]
        for name, typical_s in options.typical_s.items():
            if typical_s < options.typical_s[variant]:
                worth = utility[name] * outlook.run(name, rows).chance(left_s) - price * typical_s
                if (worth, best) > (most, name):
                    best, most = name, worth
        return best

    def batch(self, variant: str, level: int) -> tuple[int, ...]:
        """Ids of the run: the first request, and those whom sharing it does not make worse off."""
        view = self._view
        if not self._others or not view.outlook.paying_sizes(variant, view.max_batch):
            return (view.queue[0].id,)
        outlook, gains = view.outlook, {}
        stepped = variant != self._head.variants[level]
        price, depth = outlook.prices[level], _depth(view)
        for kind, one in self._gears.items():
            factor, utility = weight(kind.urgency), outlook.utility(kind.objective)
            lost = factor * (utility[one.variants[level]] - utility[variant])
            saved_s = one.busy_s[level] - outlook.joining_s(variant, kind.rows, depth)
            gains[kind] = stepped or lost <= max(0.0, price * saved_s)
        willing = [True, *map(gains.__getitem__, self._others)]
        return fill(view, variant, willing)
