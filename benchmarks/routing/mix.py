"""What the requests of a cell ask for, seeded.

Deadlines of 2, 4 and 20 times the most accurate variant's p95 alone, in equal shares. Accuracy
floors of none, 95 % and 99 % of the best (of the measured value). A quarter has a cost cap, at the
median variant's cost but never below the cheapest that keeps the floor. Two in a hundred ask for
what no variant can do: more accuracy than there is, or less time or money than the least.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.routing.ladder import Ladder, value
from router.candidate import Candidate
from router.constraints import Constraints
from router.simulate import Arrival

DEADLINES = {"tight": 2.0, "middle": 4.0, "loose": 20.0}
FLOORS = (0.0, 0.95, 0.99)
CAPPED = 0.25
IMPOSSIBLE = 0.02
IMPOSSIBLE_GROUP = "impossible"


def deadlines_s(ladder: Ladder) -> tuple[float, ...]:
    """The deadline of each class, tight first."""
    single_s = ladder.best.service_s(1, 95)
    return tuple(times * single_s for times in DEADLINES.values())


def arrivals(ladder: Ladder, at_us: NDArray[np.int64], seed: int) -> list[Arrival]:
    """The requests that arrive at these times."""
    rng = np.random.default_rng([seed, 0x6D6978])
    groups, limits_s = tuple(DEADLINES), deadlines_s(ladder)
    asked = {
        (group, floor, capped): _constraints(ladder, limit_s, floor, capped=capped)
        for group, limit_s in zip(groups, limits_s, strict=True)
        for floor in FLOORS
        for capped in (False, True)
    }
    beyond = _impossible(ladder, limits_s)
    found = []
    for at in at_us.tolist():
        group = groups[rng.integers(len(groups))]
        floor = FLOORS[rng.integers(len(FLOORS))]
        capped, kind = rng.random() < CAPPED, int(rng.integers(len(beyond)))
        if rng.random() < IMPOSSIBLE:
            arrival = Arrival(at_us=at, constraints=beyond[kind], group=IMPOSSIBLE_GROUP)
        else:
            arrival = Arrival(at_us=at, constraints=asked[group, floor, capped], group=group)
        found.append(arrival)
    return found


def _constraints(ladder: Ladder, limit_s: float, floor: float, *, capped: bool) -> Constraints:
    least = floor * value(ladder.best)
    cap = None
    if capped:
        costs = sorted(_cost(each) for each in ladder.candidates)
        keeping = min(_cost(each) for each in ladder.candidates if value(each) >= least)
        cap = max(keeping, costs[len(costs) // 2])
    return Constraints(
        max_latency_s=limit_s,
        min_accuracy=least or None,
        accuracy_point=True,
        max_cost_usd_per_million=cap,
        objective="accuracy",
    )


def _impossible(ladder: Ladder, limits_s: Sequence[float]) -> tuple[Constraints, ...]:
    fastest_s = min(each.service_s(1, 50) for each in ladder.candidates)
    cheapest = min(_cost(each) for each in ladder.candidates)
    too_good = (1 + value(ladder.best)) / 2
    asked = [
        Constraints(max_latency_s=limits_s[1], min_accuracy=too_good, accuracy_point=True),
        Constraints(max_latency_s=fastest_s / 4),
    ]
    if cheapest > 0:
        asked.append(Constraints(max_cost_usd_per_million=cheapest / 2))
    return tuple(asked)


def _cost(candidate: Candidate) -> float:
    assert candidate.cost_usd_per_million is not None
    return candidate.cost_usd_per_million
