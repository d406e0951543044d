"""What an answer is worth to its caller, from 0 to 1, so that different wishes can be weighed."""

from collections.abc import Iterable, Mapping

from router.candidate import Candidate
from router.constraints import Objective
from router.weights import Weights

UNKNOWN = 0.5
"""Stands in for an accuracy that was not measured when answers are weighed against each other."""

URGENCY_FACTOR = 2.0
"""An answer is worth so many times that of one a step less urgent (RFC 9218: 0 to 7)."""


def utilities(objective: Objective, candidates: Iterable[Candidate]) -> Mapping[str, float]:
    """The worth of an answer in time, by variant.

    accuracy: the measured value, so that the sum over all answers is the accuracy delivered.
    cost: from 1 for nothing down to a half for the dearest of these; what has no known price
    counts as the dearest. latency: 1, whoever answers.
    Weights: from a half for the worst on all axes to 1 for the best.
    """
    known = list(candidates)
    match objective:
        case "accuracy":
            return {c.variant: UNKNOWN if c.accuracy is None else c.accuracy.value for c in known}
        case "cost":
            costs = {c.variant: c.cost_usd_per_million for c in known}
            dearest = max((cost for cost in costs.values() if cost is not None), default=0.0)
            return {
                name: 1.0 - 0.5 * (1.0 if cost is None else cost / dearest if dearest else 0.0)
                for name, cost in costs.items()
            }
        case Weights():
            return {c.variant: 0.5 + 0.5 * objective.score(c) for c in known}
        case "latency":
            return dict.fromkeys((c.variant for c in known), 1.0)


def weight(urgency: int) -> float:
    """The factor by which urgency raises the worth of an answer, 1 at the default of 3."""
    return URGENCY_FACTOR ** (3 - urgency)
