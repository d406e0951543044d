"""Where soft bounds give way: which are broken, and by how much."""

from router.constraints import BOUNDS, Bound, Constraints
from router.decision import Verdict
from router.relax import EPSILON


def late(constraints: Constraints, verdict: Verdict) -> bool:
    """Whether the latency bound, hard or soft, would be missed under the present load."""
    limit_s, predicted_s = constraints.max_latency_s, verdict.predicted_latency_s
    return limit_s is not None and not (predicted_s is not None and predicted_s <= limit_s)


def broken(constraints: Constraints, verdict: Verdict) -> tuple[Bound, ...]:
    """The bounds that this variant would break now."""
    failed = {rejection.against for rejection in verdict.rejections}
    if late(constraints, verdict):
        failed.add("max_latency")
    return tuple(bound for bound in BOUNDS if bound in failed)


def distance(constraints: Constraints, verdict: Verdict) -> tuple[int, float]:
    """How far a variant is from the bounds: unknown numbers, then the sum of relative excesses.

    Latency counts as predicted under the present load, since that is what the caller will see.
    """
    unknown, excess = 0, 0.0
    for rejection in verdict.rejections:
        if rejection.limit is None or rejection.found is None:
            unknown += 1
        elif rejection.bound != "max_latency":
            excess += abs(rejection.found - rejection.limit) / max(rejection.limit, EPSILON)
    limit_s, predicted_s = constraints.max_latency_s, verdict.predicted_latency_s
    if limit_s is not None and predicted_s is not None:
        excess += max(0.0, predicted_s - limit_s) / max(limit_s, EPSILON)
    return unknown, excess
