"""Which variant each kind of request takes at each price of worker time.

Worker time is what requests compete for. Give it a price, in worth of answers per second: each
request then takes the variant whose worth less the price of its time is greatest, and one whose
answer is worth less than its time costs is not served while others wait. Free time means
everybody's best variant; the higher the price, the faster the variants. One number so tells what a
loaded fleet should do with every request, and it is the optimal one: the multiplier of the
constraint that time is limited (H. Everett, "Generalized Lagrange multiplier method for solving
problems of optimum allocation of resources", Operations Research 11, 1963).
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

STEP = 1.2
"""Neighbouring prices differ by this factor, or by a larger one where the range is very wide."""

MAX_LEVELS = 120


class Point(NamedTuple):
    """A variant on a kind's concave front: its time, its worth and its name."""

    busy_s: float
    worth: float
    variant: str


class Gears:
    """One kind's choice at each level of a price list; level 0 is free, the last one priceless.

    `busy_s` is the worker time that one request takes (its share of a run, where batches pay),
    `tail_s` the seconds from its start to its end at its percentile, `worth_per_s` the price above
    which it is not served while others wait.
    """

    __slots__ = ("busy_s", "front", "served_s", "tail_s", "variants", "worth_per_s")

    def __init__(
        self,
        prices: Sequence[float],
        busy_s: Mapping[str, float],
        tail_s: Mapping[str, float],
        worth: Mapping[str, float],
    ) -> None:
        self.front = front(busy_s, worth)
        # Stepping up from the fastest gains less and less per second.
        falls = [-(b.worth - a.worth) / (b.busy_s - a.busy_s) for a, b in _steps(self.front)]
        points = [self.front[bisect_right(falls, -price)] for price in prices]
        self.variants = [point.variant for point in points]
        self.busy_s = [point.busy_s for point in points]
        self.tail_s = [tail_s[point.variant] for point in points]
        fastest = self.front[0]
        self.worth_per_s = fastest.worth / fastest.busy_s if fastest.busy_s > 0 else math.inf
        self.served_s = [
            busy if price <= self.worth_per_s else 0.0
            for price, busy in zip(prices, self.busy_s, strict=True)
        ]


def front(busy_s: Mapping[str, float], worth: Mapping[str, float]) -> list[Point]:
    """The upper concave front of worth over time, fastest first; ties by variant id.

    Only these are ever the best at some price.
    """
    hull: list[Point] = []
    points = (Point(seconds, worth[name], name) for name, seconds in busy_s.items())
    for point in sorted(points, key=lambda p: (p.busy_s, -p.worth, p.variant)):
        if hull and point.worth <= hull[-1].worth:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def price_list(fronts: Iterable[Sequence[Point]], most_weight: float) -> list[float]:
    """0, then prices from the smallest to the largest at which a choice could change, then ∞.

    Answers may count for up to `most_weight` times their worth.
    """
    turns: list[float] = []
    for points in fronts:
        turns += [_slope(a, b) for a, b in _steps(points)]
        turns += [points[0].worth / points[0].busy_s] if points and points[0].busy_s > 0 else []
    turns = [turn for turn in turns if 0 < turn < math.inf]
    if not turns:
        return [0.0, math.inf]
    low, high = min(turns), max(turns) * most_weight * STEP
    step = max(STEP, (high / low) ** (1 / MAX_LEVELS))
    count = math.ceil(math.log(high / low) / math.log(step))
    return [0.0, *(low * step**power for power in range(count + 1)), math.inf]


def _steps(points: Sequence[Point]) -> Iterable[tuple[Point, Point]]:
    return pairwise(points)


def _slope(a: Point, b: Point) -> float:
    return (b.worth - a.worth) / (b.busy_s - a.busy_s) if b.busy_s > a.busy_s else math.inf
