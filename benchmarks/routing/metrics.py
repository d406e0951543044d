"""What one run was worth, told over *all* arrivals."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.routing.ladder import Ladder, value
from benchmarks.routing.mix import IMPOSSIBLE_GROUP
from router.simulate import Arrival, Outcome, Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """One run in numbers; the floor of each is 0.

    effective_accuracy  Σ accuracy of answers in time ÷ all arrivals (Zhang et al., "Model-
                        Switching", HotCloud 2020, over all arrivals instead of those answered)
    attainment          answers in time ÷ all arrivals
    floor_violations, cost_violations  answers that broke the request's own bound
    usd_per_1000        dollars of all runs per 1,000 answers in time
    p50_s, p95_s, p99_s arrival to reply, of what was answered, late or not
    worst_second        attainment in the worst second by arrival
    fairness            attainment of the worst served deadline class ÷ that of the best
    switches, loads     changes of variant on a worker; variants loaded
    decision_us_p50     wall time of one decision, order and early drop included
    refusal_precision, refusal_recall  impossible ÷ refused, refused ÷ impossible
    """

    effective_accuracy: float
    attainment: float
    floor_violations: int
    cost_violations: int
    usd_per_1000: float
    p50_s: float
    p95_s: float
    p99_s: float
    worst_second: float
    fairness: float
    switches: int
    loads: int
    decision_us_p50: float
    refusal_precision: float
    refusal_recall: float


def scores(run: Run, arrivals: Sequence[Arrival], ladder: Ladder) -> Scores:
    """The numbers of one run over these arrivals."""
    by_id = {each.variant: each for each in ladder.candidates}
    pairs = [(outcome, arrivals[outcome.arrival]) for outcome in run.outcomes]
    ran = [(o, a, by_id[o.variant]) for o, a in pairs if o.variant is not None]
    in_time = [(o, a, c) for o, a, c in ran if o.status == "answered"]
    waits = [(o.finish_us - a.at_us) / 1e6 for o, a, _ in ran if o.finish_us is not None]
    p50, p95, p99 = np.percentile(waits, (50, 95, 99)) if waits else (0.0, 0.0, 0.0)
    dollars = sum((c.cost_usd_per_million or 0.0) / 1e6 * a.rows for _, a, c in ran)
    refused = [a for o, a in pairs if o.status in ("infeasible", "overloaded")]
    impossible = sum(a.group == IMPOSSIBLE_GROUP for a in arrivals)
    rightly = sum(a.group == IMPOSSIBLE_GROUP for a in refused)
    return Scores(
        effective_accuracy=sum(value(c) for *_, c in in_time) / len(arrivals),
        attainment=len(in_time) / len(arrivals),
        floor_violations=sum(value(c) < (a.constraints.min_accuracy or 0) for _, a, c in ran),
        cost_violations=sum(
            (c.cost_usd_per_million or 0.0) > _or_infinite(a.constraints.max_cost_usd_per_million)
            for _, a, c in ran
        ),
        usd_per_1000=dollars / len(in_time) * 1000 if in_time else 0.0,
        p50_s=float(p50),
        p95_s=float(p95),
        p99_s=float(p99),
        worst_second=min(_attainment(pairs, lambda a: a.at_us // 1_000_000).values()),
        fairness=_fairness(pairs),
        switches=run.switches,
        loads=run.loads,
        decision_us_p50=float(np.median(run.decision_ns)) / 1e3 if run.decision_ns else 0.0,
        refusal_precision=rightly / len(refused) if refused else 1.0,
        refusal_recall=rightly / impossible if impossible else 1.0,
    )


def _or_infinite(limit: float | None) -> float:
    return math.inf if limit is None else limit


def _attainment(
    pairs: Sequence[tuple[Outcome, Arrival]], key: Callable[[Arrival], object]
) -> Mapping[object, float]:
    kept: dict[object, list[bool]] = {}
    for outcome, arrival in pairs:
        kept.setdefault(key(arrival), []).append(outcome.status == "answered")
    return {name: sum(each) / len(each) for name, each in kept.items()}


def _fairness(pairs: Sequence[tuple[Outcome, Arrival]]) -> float:
    possible = [(o, a) for o, a in pairs if a.group != IMPOSSIBLE_GROUP]
    shares = _attainment(possible, lambda a: a.group).values()
    best = max(shares, default=0.0)
    return min(shares) / best if best else 1.0
