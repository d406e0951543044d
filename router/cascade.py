"""May a cascade answer: a cheap variant first, a better one for what it is unsure of?

A cascade is judged as a whole, by its own measured accuracy, and every hard and soft bound is held
against the dearest way that it can go: both variants, one after the other.
"""

from collections.abc import Iterable, Mapping

from router.constraints import Constraints
from router.decision import Verdict
from variants.evidence import Cascade


def best(
    constraints: Constraints,
    cascades: Iterable[Cascade],
    verdicts: Mapping[str, Verdict],
    *,
    reference_accuracy: float | None,
) -> Cascade | None:
    """The best cascade for the objective that keeps every bound now; None where none does.

    `verdicts` are admission's, by variant. "Best" is the highest accuracy, or the lowest expected
    cost or latency; ties break by expected latency, then by the variants' names.
    """
    kept = [
        cascade
        for cascade in cascades
        if _keeps(constraints, cascade, verdicts, reference_accuracy=reference_accuracy)
    ]
    return min(kept, key=lambda cascade: _rank(constraints, cascade, verdicts), default=None)


def promise(cascade: Cascade, verdicts: Mapping[str, Verdict]) -> Verdict:
    """What is promised: latency if both variants run, expected cost, the cascade's own accuracy."""
    first, then = verdicts[cascade.first], verdicts[cascade.then]
    return first._replace(
        predicted_latency_s=_sum(first.predicted_latency_s, then.predicted_latency_s),
        idle_latency_s=_sum(first.idle_latency_s, then.idle_latency_s),
        cost_usd_per_million=_sum(
            first.cost_usd_per_million, then.cost_usd_per_million, cascade.escalation.value
        ),
        accuracy=cascade.accuracy.value,
        accuracy_low=cascade.accuracy.low,
    )


def stands_alone(first: Verdict) -> bool:
    """Whether the first variant keeps the accuracy bounds by itself, unsure or not."""
    return not any(
        rejection.against in ("min_accuracy", "max_accuracy_drop") for rejection in first.rejections
    )


def _keeps(
    constraints: Constraints,
    cascade: Cascade,
    verdicts: Mapping[str, Verdict],
    *,
    reference_accuracy: float | None,
) -> bool:
    first, then = verdicts.get(cascade.first), verdicts.get(cascade.then)
    if first is None or then is None:
        return False
    for rejection in (*first.rejections, *then.rejections):
        if rejection.against not in ("min_accuracy", "max_accuracy_drop"):
            return False
    latency_s = _sum(first.predicted_latency_s, then.predicted_latency_s)
    cost = _sum(first.cost_usd_per_million, then.cost_usd_per_million)
    floor, drop = constraints.min_accuracy, constraints.max_accuracy_drop_points
    held = cascade.accuracy.value if constraints.accuracy_point else cascade.accuracy.low
    lost = None if reference_accuracy is None else reference_accuracy - cascade.accuracy.value
    return (
        latency_s is not None  # both are open, and measured
        and _within(latency_s, constraints.max_latency_s)
        and _within(cost, constraints.max_cost_usd_per_million)
        and (floor is None or held >= floor)
        and (drop is None or (lost is not None and round(100 * lost, 9) <= drop))
    )


def _rank(
    constraints: Constraints, cascade: Cascade, verdicts: Mapping[str, Verdict]
) -> tuple[float, float, str, str]:
    first, then = verdicts[cascade.first], verdicts[cascade.then]
    share = cascade.escalation.value
    latency_s = _sum(first.predicted_latency_s, then.predicted_latency_s, share)
    cost = _sum(first.cost_usd_per_million, then.cost_usd_per_million, share)
    match constraints.effective_objective:
        case "cost":
            score = cost if cost is not None else float("inf")
        case "latency":
            score = latency_s if latency_s is not None else float("inf")
        case _:  # a cascade has no place on the axes of weights, so accuracy counts
            score = -cascade.accuracy.value
    return (score, latency_s or 0.0, cascade.first, cascade.then)


def _sum(first: float | None, then: float | None, share: float = 1.0) -> float | None:
    return None if first is None or then is None else first + share * then


def _within(found: float | None, limit: float | None) -> bool:
    return limit is None or (found is not None and found <= limit)
