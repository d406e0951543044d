"""At arrival: may this request be promised an answer, and by which variants?"""

import math
from collections.abc import Iterable, Mapping, Sequence

from router.candidate import Candidate
from router.constraints import Constraints, Objective
from router.decision import Decision, Reason, Verdict
from router.estimate import finish_s, queued_s, start_in_s
from router.explain import CHOICE
from router.fallback import broken, distance, late
from router.fleet import Queued, WorkerView
from router.judge import rejections
from router.ranking import preference
from router.relax import binding, cheapest_relaxation, hard
from router.weights import Weights

RETRY_MIN_S = 0.05
"""No caller is told to come back sooner: the answer would not have changed."""

RETRY_MAX_S = 60.0
"""Nor later: a prediction further ahead is worth nothing."""


LOAD_MIN_S = 1.0
"""The least that bringing up a variant takes that no worker has: perhaps a worker must start."""


def admit(
    constraints: Constraints,
    candidates: Sequence[Candidate],
    *,
    reference: str | None,
    queue: Sequence[Queued],
    workers: Sequence[WorkerView],
    now_s: float,
    rows: int,
    overhead_s: float,
    queue_limit: int,
    rivals: int = 0,
) -> Decision:
    """The decision on one request of `rows` rows that arrives at `now_s`.

    `overhead_s` is what the gateway itself adds to every request. `rivals` is how many other models
    have work waiting: each takes an equal share of the workers. All bounds are tried first.
    Where no variant keeps them now, the soft ones are given up and the closest variant that
    keeps the hard ones is the only one eligible. A hard bound is never given up.
    """
    by_id = {candidate.variant: candidate for candidate in candidates}
    deadline_s = (
        math.inf if constraints.max_latency_s is None else now_s + constraints.max_latency_s
    )
    ahead_s = queued_s(queue, by_id, deadline_s=deadline_s, urgency=constraints.urgency)
    ahead_s *= 1 + rivals
    waits_s = {
        variant: start_in_s(workers, variant, now_s=now_s, ahead_s=ahead_s)
        if candidate.resident
        else math.inf
        for variant, candidate in by_id.items()
    }
    verdicts = tuple(
        _verdict(
            constraints,
            by_id[variant],
            reference=None if reference is None else by_id.get(reference),
            wait_s=waits_s[variant],
            rows=rows,
            overhead_s=overhead_s,
        )
        for variant in sorted(by_id)
    )
    possible = [verdict for verdict in verdicts if not hard(constraints, verdict)]
    if not possible:
        return _infeasible(constraints, verdicts)

    loaded = [verdict for verdict in possible if math.isfinite(waits_s[verdict.variant])]
    if len(queue) >= queue_limit:
        all_s = queued_s(queue, by_id, deadline_s=math.inf, urgency=7) / max(1, len(workers))
        surplus_s = all_s * (len(queue) - queue_limit + 1) / max(1, len(queue))
        retry_s = max(surplus_s, _fits_in_s(constraints, possible, by_id, waits_s))
        message = f"the queue is full ({len(queue)} waiting, {queue_limit} at most)"
        return _overloaded(constraints, verdicts, retry_s, message)

    on_time = [verdict for verdict in loaded if not late(constraints, verdict)]
    kept = [verdict for verdict in on_time if verdict.feasible]
    if kept:
        return _admitted(constraints, verdicts, kept, by_id)
    servable = on_time if constraints.is_hard("max_latency") else loaded
    if servable:
        return _fallback(constraints, verdicts, servable, by_id)
    retry_s = _fits_in_s(constraints, possible, by_id, waits_s)
    message = (
        "feasible when idle, but the work ahead leaves too little time"
        if loaded
        else "feasible, but no worker has such a variant loaded"
    )
    return _overloaded(constraints, verdicts, retry_s, message)


def on_axes(constraints: Constraints, candidates: Iterable[Candidate]) -> Objective:
    """The objective; weights are put on the axes of these candidates."""
    objective = constraints.effective_objective
    return objective.over(candidates) if isinstance(objective, Weights) else objective


def _verdict(
    constraints: Constraints,
    candidate: Candidate,
    *,
    reference: Candidate | None,
    wait_s: float,
    rows: int,
    overhead_s: float,
) -> Verdict:
    idle_s = predicted_s = None
    if candidate.service:
        percentile = constraints.latency_percentile
        idle_s = finish_s(
            candidate, rows=rows, percentile=percentile, wait_s=0.0, overhead_s=overhead_s
        )
        predicted_s = idle_s + wait_s if math.isfinite(wait_s) else None
    accuracy = candidate.accuracy
    return Verdict(
        variant=candidate.variant,
        rejections=rejections(
            constraints,
            candidate,
            reference=reference,
            idle_latency_s=idle_s,
        ),
        predicted_latency_s=predicted_s,
        idle_latency_s=idle_s,
        cost_usd_per_million=candidate.cost_usd_per_million,
        accuracy=None if accuracy is None else accuracy.value,
        accuracy_low=None if accuracy is None else accuracy.low,
    )


def _infeasible(constraints: Constraints, verdicts: tuple[Verdict, ...]) -> Decision:
    bound = binding(constraints, verdicts)
    step = cheapest_relaxation(constraints, verdicts)
    if bound is None:
        message = "there are no variants to choose from"
    elif bound == "blocked":
        message = "every variant that keeps the bounds is blocked"
    else:
        message = f"no variant can meet the budget even when idle; {bound} is the binding bound"
    return Decision(
        outcome="infeasible",
        objective=constraints.effective_objective,
        verdicts=verdicts,
        binding=bound,
        relaxation=step,
        message=message if step is None else f"{message}: {step.sentence}",
    )


def _overloaded(
    constraints: Constraints, verdicts: tuple[Verdict, ...], retry_s: float, message: str
) -> Decision:
    return Decision(
        outcome="overloaded",
        objective=constraints.effective_objective,
        verdicts=verdicts,
        retry_after_s=min(RETRY_MAX_S, max(RETRY_MIN_S, retry_s)),
        message=message,
    )


def _fits_in_s(
    constraints: Constraints,
    possible: Sequence[Verdict],
    by_id: Mapping[str, Candidate],
    waits_s: Mapping[str, float],
) -> float:
    """Seconds until the first possible variant would fit, if nothing more arrives.

    Work ahead drains by one second a second. A variant that no worker has costs its load time.
    """
    limit_s = constraints.max_latency_s if constraints.is_hard("max_latency") else None
    soonest_s = math.inf
    for verdict in possible:
        wait_s = waits_s[verdict.variant]
        if math.isinf(wait_s):
            soonest_s = min(soonest_s, max(LOAD_MIN_S, by_id[verdict.variant].load_s))
        elif limit_s is None or verdict.idle_latency_s is None:
            soonest_s = 0.0
        else:
            soonest_s = min(soonest_s, max(0.0, verdict.idle_latency_s + wait_s - limit_s))
    return soonest_s


def _admitted(
    constraints: Constraints,
    verdicts: tuple[Verdict, ...],
    kept: Sequence[Verdict],
    by_id: Mapping[str, Candidate],
) -> Decision:
    """All bounds are kept: every variant that keeps them when idle stays eligible."""
    objective = on_axes(constraints, by_id.values())
    best = min(kept, key=lambda verdict: _rank(objective, verdict, by_id))
    eligible = tuple(verdict.variant for verdict in verdicts if verdict.feasible)
    reason = _reason(constraints, eligible)
    return Decision(
        outcome="admitted",
        objective=objective,
        verdicts=verdicts,
        eligible=eligible,
        preferred=best.variant,
        reason=reason,
        message=f"{best.variant} {CHOICE[reason]}",
    )


def _reason(constraints: Constraints, eligible: tuple[str, ...]) -> Reason:
    """Why the preferred one of these is preferred, where all bounds are kept."""
    if constraints.variants is not None and len(constraints.variants) == 1:
        return "pinned"
    if len(eligible) == 1:
        return "only_feasible"
    match constraints.effective_objective:
        case "accuracy":
            return "most_accurate"
        case "cost":
            return "cheapest"
        case "latency":
            return "fastest"
        case Weights():
            return "best_weighted"


def _fallback(
    constraints: Constraints,
    verdicts: tuple[Verdict, ...],
    servable: Sequence[Verdict],
    by_id: Mapping[str, Candidate],
) -> Decision:
    """The hard bounds are kept, a soft one is not: the closest variant serves, and says so."""
    objective = on_axes(constraints, by_id.values())
    closest = min(
        servable,
        key=lambda verdict: (distance(constraints, verdict), _rank(objective, verdict, by_id)),
    )
    violated = broken(constraints, closest)
    return Decision(
        outcome="admitted",
        objective=objective,
        verdicts=verdicts,
        eligible=(closest.variant,),
        preferred=closest.variant,
        reason="fallback",
        violated=violated,
        message=f"{closest.variant} {CHOICE['fallback']}; it breaks {', '.join(violated)}",
    )


def _rank(
    objective: Objective, verdict: Verdict, by_id: Mapping[str, Candidate]
) -> tuple[float, float, str]:
    predicted_s = verdict.predicted_latency_s
    finish = math.inf if predicted_s is None else predicted_s
    return preference(objective, by_id[verdict.variant], finish)
