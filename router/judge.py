"""One candidate against every bound, on an idle machine."""

from collections.abc import Iterable, Iterator

from router.candidate import Candidate
from router.constraints import Bound, Constraints
from router.decision import Rejection
from router.explain import amount, outward


def rejections(
    constraints: Constraints,
    candidate: Candidate,
    *,
    reference: Candidate | None,
    idle_latency_s: float | None,
) -> tuple[Rejection, ...]:
    """Every reason why this candidate may not answer; empty where it may.

    An unmeasured number never satisfies a bound. NaN never does either: each test asks whether
    the bound is kept, not whether it is broken.
    """
    return (
        *_standing(constraints, candidate),
        *_ceiling(constraints, "max_latency", idle_latency_s, f"p{constraints.latency_percentile}"),
        *_ceiling(constraints, "max_cost", candidate.cost_usd_per_million, "cost"),
        *_floor(constraints, candidate),
        *_ceiling(constraints, "max_accuracy_drop", drop_points(candidate, reference), "drop"),
    )


def eligible(
    constraints: Constraints,
    candidates: Iterable[Candidate],
    *,
    reference: Candidate | None,
    rows: int,
    overhead_s: float = 0.0,
) -> list[Candidate]:
    """The candidates that keep every bound of a request of so many rows, when idle."""
    return [
        each
        for each in candidates
        if not rejections(
            constraints,
            each,
            reference=reference,
            idle_latency_s=overhead_s + each.service_s(rows, constraints.latency_percentile),
        )
    ]


def drop_points(candidate: Candidate, reference: Candidate | None) -> float | None:
    """Percentage points of accuracy lost against the reference; negative where it gains.

    None where either is unmeasured. Rounded to 1e-9, so that 0.92 − 0.915 is 0.5 points.
    """
    if reference is None or reference.accuracy is None or candidate.accuracy is None:
        return None
    return round(100 * (reference.accuracy.value - candidate.accuracy.value), 9)


def _standing(constraints: Constraints, candidate: Candidate) -> Iterator[Rejection]:
    """Whether it may serve at all, whatever it measures."""
    if candidate.blocked is not None:
        yield Rejection(bound="blocked", against=None, detail=candidate.blocked)
    allowed = constraints.variants
    if allowed is not None and candidate.variant not in allowed:
        detail = f"not among the variants asked for ({', '.join(allowed) or 'none'})"
        yield Rejection(bound="variants", against="variants", detail=detail)


def _ceiling(
    constraints: Constraints, bound: Bound, found: float | None, name: str
) -> Iterator[Rejection]:
    limit = constraints.limit(bound)
    if limit is None:
        return
    if found is None:
        yield _unmeasured(bound, limit)
    elif not found <= limit:
        detail = f"{name} {amount(bound, outward(bound, found))} exceeds {amount(bound, limit)}"
        yield Rejection(bound=bound, against=bound, limit=limit, found=found, detail=detail)


def _floor(constraints: Constraints, candidate: Candidate) -> Iterator[Rejection]:
    limit = constraints.min_accuracy
    if limit is None:
        return
    if candidate.accuracy is None:
        yield _unmeasured("min_accuracy", limit)
        return
    point = constraints.accuracy_point
    found = candidate.accuracy.value if point else candidate.accuracy.low
    if not found >= limit:
        name = "accuracy" if point else "lower 95 % bound of accuracy"
        shown = amount("min_accuracy", outward("min_accuracy", found))
        yield Rejection(
            bound="min_accuracy",
            against="min_accuracy",
            limit=limit,
            found=found,
            detail=f"{name} {shown} is below {amount('min_accuracy', limit)}",
        )


def _unmeasured(bound: Bound, limit: float) -> Rejection:
    needs = {
        "max_latency": "latency is not measured",
        "max_cost": "cost is not measured",
        "min_accuracy": "accuracy is not measured",
        "max_accuracy_drop": "accuracy of this variant or of the reference is not measured",
    }[bound]
    detail = f"{needs}, so {bound} cannot be promised"
    return Rejection(bound="unmeasured", against=bound, limit=limit, detail=detail)
