import math
from dataclasses import replace

import pytest

from router.admission import RETRY_MIN_S, admit
from router.constraints import Constraints
from tests.router.cases import MS, candidate, ladder, queued, worker


def decide(constraints, candidates=None, **load):
    candidates = ladder() if candidates is None else candidates
    defaults = {
        "reference": "fp32",
        "queue": (),
        "workers": [worker(*(each.variant for each in candidates))],
        "now_s": 100.0,
        "rows": 1,
        "overhead_s": 0.0,
        "queue_limit": 64,
    }
    return admit(constraints, candidates, **(defaults | load))


def rejected(decision, variant):
    verdict = next(each for each in decision.verdicts if each.variant == variant)
    return {rejection.bound: rejection.detail for rejection in verdict.rejections}


def test_without_bounds_every_variant_is_eligible_and_the_most_accurate_preferred():
    decision = decide(Constraints())
    assert decision.outcome == "admitted"
    assert decision.eligible == ("fp32", "int8", "tiny")
    assert (decision.preferred, decision.reason) == ("fp32", "most_accurate")
    assert (decision.feasible_count, decision.considered) == (3, 3)


@pytest.mark.parametrize(
    ("objective", "preferred", "reason"),
    [
        ("accuracy", "fp32", "most_accurate"),
        ("cost", "tiny", "cheapest"),
        ("latency", "tiny", "fastest"),
    ],
)
def test_the_objective_decides_among_the_feasible(objective, preferred, reason):
    decision = decide(Constraints(objective=objective))
    assert (decision.preferred, decision.reason) == (preferred, reason)


def test_ties_break_by_variant_id():
    assert decide(Constraints(), [candidate("b"), candidate("a")]).preferred == "a"


def test_a_latency_bound_rejects_what_is_too_slow_even_when_idle():
    decision = decide(Constraints(max_latency_s=0.02))
    assert decision.eligible == ("int8", "tiny")
    assert rejected(decision, "fp32") == {"max_latency": "p95 40 ms exceeds 20 ms"}


def test_overhead_counts_against_the_latency_bound():
    assert decide(Constraints(max_latency_s=0.0105), overhead_s=0.001).eligible == ("tiny",)


def test_the_accuracy_floor_is_compared_with_the_lower_bound():
    decision = decide(Constraints(min_accuracy=0.91))
    assert decision.eligible == ("fp32",)
    assert rejected(decision, "int8") == {
        "min_accuracy": "lower 95 % bound of accuracy 0.904 is below 0.91"
    }


def test_the_accuracy_floor_is_compared_with_the_value_on_request():
    assert decide(Constraints(min_accuracy=0.91, accuracy_point=True)).eligible == ("fp32", "int8")


def test_a_drop_is_counted_in_points_from_the_reference():
    decision = decide(Constraints(max_accuracy_drop_points=1.0))
    assert decision.eligible == ("fp32", "int8")
    assert rejected(decision, "tiny") == {"max_accuracy_drop": "drop 7 points exceeds 1 points"}


def test_no_drop_at_all_leaves_the_reference():
    assert decide(Constraints(max_accuracy_drop_points=0.0)).eligible == ("fp32",)


@pytest.mark.parametrize("reference", [None, "gone"])
def test_a_drop_from_an_unknown_reference_is_never_promised(reference):
    decision = decide(Constraints(max_accuracy_drop_points=50.0), reference=reference)
    assert (decision.outcome, decision.binding) == ("infeasible", "max_accuracy_drop")
    assert list(rejected(decision, "int8")) == ["unmeasured"]


@pytest.mark.parametrize(
    ("bound", "missing"),
    [
        ({"max_latency_s": 10.0}, {"ms": None}),
        ({"max_cost_usd_per_million": 1000.0}, {"cost": None}),
        ({"min_accuracy": 0.0}, {"accuracy": None}),
        ({"max_accuracy_drop_points": 100.0}, {"accuracy": None}),
    ],
)
def test_what_is_not_measured_is_never_promised(bound, missing):
    decision = decide(Constraints(**bound), [*ladder(), candidate("new", **missing)])
    assert "new" not in decision.eligible
    assert list(rejected(decision, "new")) == ["unmeasured"]


def test_an_unmeasured_variant_may_serve_who_does_not_ask():
    new = candidate("new", accuracy=None, cost=None, ms=None)
    assert decide(Constraints(), [new]).preferred == "new"


def test_not_a_number_keeps_no_bound():
    broken = candidate("x", cost=math.nan)
    decision = decide(Constraints(max_cost_usd_per_million=5.0), [broken])
    assert decision.outcome == "infeasible"
    assert decision.relaxation is None


def test_every_reason_is_listed():
    constraints = Constraints(max_latency_s=0.001, max_cost_usd_per_million=1, variants=("int8",))
    assert set(rejected(decide(constraints), "fp32")) == {"max_latency", "max_cost", "variants"}


def test_one_allowed_name_pins():
    decision = decide(Constraints(variants=("tiny",)))
    assert (decision.eligible, decision.reason) == (("tiny",), "pinned")


def test_the_only_feasible_variant_says_so():
    assert decide(Constraints(max_cost_usd_per_million=5.0)).reason == "only_feasible"


def test_a_blocked_variant_never_serves():
    blocked = replace(ladder()[0], blocked="quarantined after 3 crashes")
    decision = decide(Constraints(), [blocked, *ladder()[1:]])
    assert decision.eligible == ("int8", "tiny")
    assert rejected(decision, "fp32") == {"blocked": "quarantined after 3 crashes"}


def test_when_only_blocks_stand_in_the_way_they_are_binding():
    decision = decide(Constraints(), [replace(each, blocked="inactive") for each in ladder()])
    assert (decision.outcome, decision.binding) == ("infeasible", "blocked")


def test_without_candidates_nothing_is_binding():
    decision = decide(Constraints(), [])
    assert (decision.outcome, decision.binding) == ("infeasible", None)


def test_the_binding_bound_is_the_one_whose_removal_frees_the_most():
    constraints = Constraints(max_latency_s=0.005, min_accuracy=0.9)
    decision = decide(constraints)
    assert decision.outcome == "infeasible"
    assert decision.binding == "max_latency"


def test_the_cheapest_single_relaxation_is_offered():
    decision = decide(Constraints(max_latency_s=0.005, min_accuracy=0.9))
    assert decision.relaxation is not None
    assert decision.relaxation.sentence == "min_accuracy 0.9 → 0.842 makes tiny feasible"
    assert decision.relaxation.sentence in decision.message


def test_a_latency_relaxation_is_told_in_milliseconds():
    decision = decide(Constraints(max_latency_s=0.05), [candidate("int8", ms=62.5)])
    assert decision.relaxation is not None
    assert decision.relaxation.sentence == "max_latency 50 → 62.5 ms makes int8 feasible"


def test_no_single_relaxation_is_offered_where_none_is_enough():
    constraints = Constraints(max_latency_s=0.001, max_cost_usd_per_million=1.0)
    decision = decide(constraints)
    assert decision.relaxation is None
    assert decision.binding == "max_latency"


def test_work_ahead_takes_longer_where_other_models_share_the_workers():
    waiting = [queued(number, "int8", deadline_s=100.01) for number in range(4)]
    alone, shared = (
        decide(Constraints(max_latency_s=1.0), queue=waiting, rivals=rivals).verdicts[0]
        for rivals in (0, 1)
    )
    alone_s = alone.predicted_latency_s - alone.idle_latency_s
    assert alone_s > 0
    shared_s = shared.predicted_latency_s - shared.idle_latency_s
    assert shared_s == pytest.approx(2 * alone_s)


def test_work_ahead_steps_the_preference_down_but_keeps_all_eligible():
    constraints = Constraints(max_latency_s=0.05)
    decision = decide(constraints, workers=[worker("fp32", "int8", "tiny", free_at_s=100.03)])
    assert decision.preferred == "int8"
    assert decision.eligible == ("fp32", "int8", "tiny")


def test_feasible_but_not_now_is_overload_with_the_time_until_it_fits():
    constraints = Constraints(max_latency_s=0.05)
    decision = decide(constraints, workers=[worker("fp32", "int8", "tiny", free_at_s=101.0)])
    assert decision.outcome == "overloaded"
    assert decision.retry_after_s == pytest.approx(1.0 - 0.05 + 2 * MS)


def test_a_variant_that_no_worker_has_loaded_is_overload_not_infeasible():
    slow = candidate("slow", load_s=3.0, resident=False)
    decision = decide(Constraints(), [slow], workers=[worker("other")])
    assert (decision.outcome, decision.retry_after_s) == ("overloaded", 3.0)


def test_without_workers_everything_is_overload():
    decision = decide(Constraints(), workers=[])
    assert decision.outcome == "overloaded"
    assert math.isfinite(decision.retry_after_s)


def test_a_full_queue_is_overload():
    queue = [queued(id, "int8") for id in range(64)]
    decision = decide(Constraints(), queue=queue)
    assert decision.outcome == "overloaded"
    assert decision.retry_after_s >= RETRY_MIN_S


def test_an_impossible_request_is_infeasible_even_when_the_queue_is_full():
    queue = [queued(id, "int8") for id in range(64)]
    assert decide(Constraints(max_latency_s=0.0), queue=queue).outcome == "infeasible"


def test_urgent_requests_do_not_wait_for_the_others():
    queue = [queued(id, "int8") for id in range(20)]
    assert decide(Constraints(max_latency_s=0.05, urgency=0), queue=queue).preferred == "fp32"


def test_soft_bounds_are_kept_where_they_can_be():
    constraints = Constraints(max_latency_s=0.02, soft=frozenset({"max_latency"}))
    decision = decide(constraints)
    assert (decision.eligible, decision.violated) == (("int8", "tiny"), ())


def test_a_soft_bound_that_nobody_keeps_gives_way_to_the_closest_variant():
    constraints = Constraints(
        max_latency_s=0.001, min_accuracy=0.9, soft=frozenset({"max_latency"})
    )
    decision = decide(constraints)
    assert (decision.outcome, decision.reason) == ("admitted", "fallback")
    assert (decision.eligible, decision.violated) == (("int8",), ("max_latency",))


def test_lenient_serves_the_closest_and_lists_what_it_breaks():
    constraints = Constraints(max_latency_s=0.0019, max_cost_usd_per_million=1.9, lenient=True)
    decision = decide(constraints)
    assert decision.eligible == ("tiny",)
    assert decision.violated == ("max_latency", "max_cost")


def test_lenient_never_leaves_the_allow_list():
    assert decide(Constraints(variants=("gone",), lenient=True)).outcome == "infeasible"


def test_a_soft_floor_gives_way_before_a_hard_deadline_does():
    constraints = Constraints(
        max_latency_s=0.05, min_accuracy=0.9, soft=frozenset({"min_accuracy"})
    )
    decision = decide(constraints, workers=[worker("fp32", "int8", "tiny", free_at_s=100.045)])
    assert (decision.eligible, decision.violated) == (("tiny",), ("min_accuracy",))


def test_a_soft_latency_bound_is_never_overload():
    constraints = Constraints(max_latency_s=0.05, soft=frozenset({"max_latency"}))
    decision = decide(constraints, workers=[worker("fp32", "int8", "tiny", free_at_s=200.0)])
    assert (decision.outcome, decision.preferred) == ("admitted", "tiny")
    assert decision.violated == ("max_latency",)
