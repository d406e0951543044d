"""What "best" means for each objective."""

import math

from router.candidate import Candidate
from router.constraints import Objective
from router.weights import Weights


def preference(
    objective: Objective, candidate: Candidate, finish_s: float
) -> tuple[float, float, str]:
    """Sort key: the best for this objective comes first, ties by `finish_s`, then by variant id.

    accuracy: highest measured value. cost: fewest dollars. latency: earliest `finish_s`.
    Weights, which must be on the axes of the model: highest score.
    What is unmeasured comes last.
    """
    match objective:
        case "accuracy":
            accuracy = candidate.accuracy
            score = math.inf if accuracy is None else -accuracy.value
        case "cost":
            cost = candidate.cost_usd_per_million
            score = math.inf if cost is None else cost
        case "latency":
            score = finish_s
        case Weights():
            score = -objective.score(candidate)
    return (score, finish_s, candidate.variant)
