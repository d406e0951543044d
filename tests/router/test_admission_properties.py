"""What holds for every request, every set of candidates and every load."""

import math
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from router.admission import RETRY_MAX_S, RETRY_MIN_S, admit
from router.constraints import BOUNDS
from tests.router import cases

FIELDS = {
    "max_latency": "max_latency_s",
    "max_cost": "max_cost_usd_per_million",
    "min_accuracy": "min_accuracy",
    "max_accuracy_drop": "max_accuracy_drop_points",
}

loads = st.fixed_dictionaries(
    {
        "reference": st.none() | st.sampled_from(cases.NAMES),
        "queue": cases.queues(),
        "workers": cases.fleets(),
        "now_s": st.just(0.0),
        "rows": st.integers(1, 10),
        "overhead_s": st.floats(0, 0.01),
        "queue_limit": st.integers(1, 20),
    }
)


def keeps(constraints, bound, candidate, reference, load):
    """The rule of each bound, written again without the router; NaN stands for unknown."""
    if bound == "variants":
        return constraints.variants is None or candidate.variant in constraints.variants
    limit = getattr(constraints, FIELDS[bound])
    if limit is None:
        return True
    if bound == "max_latency":
        percentile = constraints.latency_percentile
        alone = candidate.service_s(load["rows"], percentile) if candidate.service else math.nan
        return load["overhead_s"] + alone <= limit
    if bound == "max_cost":
        cost = candidate.cost_usd_per_million
        return cost is not None and cost <= limit
    own, base = (each and each.accuracy for each in (candidate, reference))
    if bound == "min_accuracy":
        return own is not None and (own.value if constraints.accuracy_point else own.low) >= limit
    return None not in (own, base) and 100 * (base.value - own.value) <= limit + 1e-8


def feasible(decision):
    return {verdict.variant for verdict in decision.verdicts if verdict.feasible}


@cases.examples
@given(cases.constraints, cases.candidates(), loads)
def test_no_eligible_variant_breaks_a_hard_bound(constraints, candidates, load):
    decision = admit(constraints, candidates, **load)
    by_id = {each.variant: each for each in candidates}
    reference = by_id.get(load["reference"])
    for variant in decision.eligible:
        assert by_id[variant].blocked is None
        for bound in BOUNDS:
            kept = keeps(constraints, bound, by_id[variant], reference, load)
            assert kept or not constraints.is_hard(bound)
            assert kept or bound in decision.violated


@cases.examples
@given(cases.constraints, cases.candidates(), loads)
def test_the_preferred_variant_fits_now(constraints, candidates, load):
    decision = admit(constraints, candidates, **load)
    if decision.preferred is None:
        assert decision.outcome != "admitted"
        assert decision.eligible == ()
        return
    assert decision.preferred in decision.eligible
    assert any(decision.preferred in worker.loaded for worker in load["workers"])
    verdict = next(each for each in decision.verdicts if each.variant == decision.preferred)
    if constraints.max_latency_s is not None and "max_latency" not in decision.violated:
        assert verdict.predicted_latency_s <= constraints.max_latency_s


@cases.examples
@given(cases.constraints, cases.candidates(), loads, st.data())
def test_tightening_a_bound_never_enlarges_the_feasible_set(constraints, candidates, load, data):
    before = feasible(admit(constraints, candidates, **load))
    bound = data.draw(st.sampled_from(sorted(FIELDS)))
    limit = getattr(constraints, FIELDS[bound])
    if limit is None:
        limit = 0.0 if bound == "min_accuracy" else 1000.0
    factor = data.draw(st.floats(0, 1))
    tighter = limit + (1 - limit) * factor if bound == "min_accuracy" else limit * factor
    assume(tighter >= limit if bound == "min_accuracy" else tighter <= limit)
    after = feasible(admit(replace(constraints, **{FIELDS[bound]: tighter}), candidates, **load))
    assert after <= before


@cases.examples
@given(cases.constraints, cases.candidates(), loads, st.data())
def test_a_shorter_allow_list_never_enlarges_the_feasible_set(constraints, candidates, load, data):
    before = feasible(admit(constraints, candidates, **load))
    allowed = constraints.variants or cases.NAMES
    fewer = tuple(name for name in allowed if data.draw(st.booleans()))
    after = feasible(admit(replace(constraints, variants=fewer), candidates, **load))
    assert after <= before


@cases.examples
@given(cases.constraints, cases.candidates(), loads, st.randoms(use_true_random=False))
def test_input_order_does_not_matter_and_decisions_repeat(constraints, candidates, load, random):
    decision = admit(constraints, candidates, **load)
    assert admit(constraints, candidates, **load) == decision
    shuffled = dict(load)
    for key in ("queue", "workers"):
        shuffled[key] = random.sample(load[key], len(load[key]))
    again = admit(constraints, random.sample(candidates, len(candidates)), **shuffled)
    assert again._replace(retry_after_s=None, verdicts=()) == decision._replace(
        retry_after_s=None, verdicts=()
    )
    assert [each.rejections for each in again.verdicts] == [
        each.rejections for each in decision.verdicts
    ]


@cases.examples
@given(cases.constraints, cases.candidates(min_size=1), loads)
def test_the_relaxation_offered_makes_the_request_feasible(constraints, candidates, load):
    decision = admit(constraints, candidates, **load)
    step = decision.relaxation
    if step is None:
        return
    assert decision.outcome == "infeasible"
    assert getattr(constraints, FIELDS[step.bound]) == step.limit
    eased = replace(constraints, **{FIELDS[step.bound]: step.needed})
    assert admit(eased, candidates, **load).outcome != "infeasible"


@cases.examples
@given(cases.constraints, cases.candidates(min_size=1), loads)
def test_infeasible_means_that_no_variant_keeps_the_hard_bounds(constraints, candidates, load):
    decision = admit(constraints, candidates, **load)
    reference = {each.variant: each for each in candidates}.get(load["reference"])
    possible = any(
        each.blocked is None
        and all(
            keeps(constraints, bound, each, reference, load)
            for bound in BOUNDS
            if constraints.is_hard(bound)
        )
        for each in candidates
    )
    assert (decision.outcome == "infeasible") == (not possible)
    assert (decision.binding is None) == possible


@cases.examples
@given(cases.constraints, cases.candidates(), loads)
def test_overload_says_when_to_come_back(constraints, candidates, load):
    decision = admit(constraints, candidates, **load)
    if decision.outcome == "overloaded":
        assert RETRY_MIN_S <= decision.retry_after_s <= RETRY_MAX_S
    else:
        assert decision.retry_after_s is None
    assert all(
        verdict.predicted_latency_s is None or math.isfinite(verdict.predicted_latency_s)
        for verdict in decision.verdicts
    )
