import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.forecast import Forecast
from router.policies import DEFAULT, UnknownPolicy, find, names
from router.waiting import Waiting
from tests.router.cases import (
    MS,
    candidate,
    examples,
    flat,
    ladder,
    queued,
    run,
    seconds,
    worker,
)

ALL = ("fp32", "int8", "tiny")
GREEDY, SHARE = find("greedy_deadline"), find("share_slack")


def chosen(policy, queue, candidates=None, **fields):
    return run(policy, queue, ladder() if candidates is None else candidates, **fields).choice


def batching(variant="x", **fields):
    """Twice the rows for a tenth more time."""
    service = {1: flat(10 * MS), 2: flat(11 * MS), 4: flat(12 * MS), 8: flat(13 * MS)}
    return candidate(variant, service=service, **fields)


def test_an_unknown_policy_is_refused_with_those_that_exist():
    with pytest.raises(UnknownPolicy, match=r"unknown policy 'fastest'; known: greedy_deadline"):
        find("fastest")


def test_the_default_policy_exists():
    assert DEFAULT in names()


def test_an_empty_queue_leaves_the_worker_idle():
    assert run(SHARE, [], ladder()).choice is None


def test_the_earliest_deadline_goes_first():
    queue = [queued(1, "int8", deadline_s=2.0), queued(2, "int8", deadline_s=1.0)]
    assert chosen(SHARE, queue).requests == (2,)


def test_urgency_goes_before_deadline():
    queue = [queued(1, "int8", deadline_s=0.5), queued(2, "int8", deadline_s=2.0, urgency=1)]
    assert chosen(SHARE, queue).requests == (2,)


def test_equal_deadlines_go_by_arrival_then_id():
    queue = [queued(3, "int8"), queued(2, "int8"), queued(9, "int8", arrival_s=-1.0)]
    assert chosen(SHARE, queue).requests == (9,)
    assert chosen(SHARE, queue[:2]).requests == (2,)


def test_work_that_can_no_longer_make_it_is_dropped_before_it_runs():
    queue = [queued(1, *ALL, deadline_s=1 * MS), queued(2, *ALL, deadline_s=1.0)]
    found = run(SHARE, queue, ladder())
    assert (found.drop, found.choice.requests) == ((1,), (2,))


def test_late_work_under_a_soft_bound_is_served_on_its_fastest_variant():
    found = run(SHARE, [queued(1, *ALL, deadline_s=-1.0, drop_late=False)], ladder())
    assert found.drop == ()
    assert (found.choice.variant, found.choice.requests) == ("tiny", (1,))


def test_work_that_another_worker_can_still_make_is_neither_dropped_nor_run_here():
    queue = [queued(1, *ALL, deadline_s=5 * MS)]
    found = run(SHARE, queue, ladder(), worker=worker("fp32"), others=[worker("tiny", id=1)])
    assert (found.drop, found.choice) == ((), None)


def test_what_is_not_loaded_here_is_not_chosen_here():
    choice = chosen(SHARE, [queued(1, *ALL)], worker=worker("int8"))
    assert choice.variant == "int8"


def test_a_variant_blocked_after_admission_is_not_chosen():
    blocked = [candidate("fp32", blocked="quarantined"), *ladder()[1:]]
    assert chosen(SHARE, [queued(1, *ALL)], blocked).variant == "int8"


def test_overhead_counts_against_the_deadline():
    queue = [queued(1, *ALL, deadline_s=10.5 * MS)]
    assert chosen(SHARE, queue).variant == "int8"
    assert chosen(SHARE, queue, overhead_s=1 * MS).variant == "tiny"


@pytest.mark.parametrize("policy", [GREEDY, SHARE])
@pytest.mark.parametrize(
    ("objective", "variant"), [("accuracy", "fp32"), ("cost", "tiny"), ("latency", "tiny")]
)
def test_the_objective_decides_when_there_is_time(policy, objective, variant):
    assert chosen(policy, [queued(1, *ALL, objective=objective)]).variant == variant


@pytest.mark.parametrize("policy", [GREEDY, SHARE])
def test_the_deadline_of_the_head_steps_the_choice_down(policy):
    assert chosen(policy, [queued(1, *ALL, deadline_s=20 * MS)]).variant == "int8"


def test_greedy_spends_the_slack_that_sharing_keeps_for_the_rest():
    queue = [queued(id, *ALL, deadline_s=60 * MS) for id in range(5)]
    assert chosen(GREEDY, queue).variant == "fp32"
    assert chosen(SHARE, queue).variant == "int8"


def test_sharing_steps_back_up_when_the_burst_is_over():
    queue = [queued(id, *ALL, deadline_s=90 * MS) for id in range(2)]
    assert chosen(SHARE, queue).variant == "fp32"


def test_sharing_counts_on_the_other_workers():
    queue = [queued(id, *ALL, deadline_s=60 * MS) for id in range(2)]
    assert chosen(SHARE, queue).variant == "int8"
    assert chosen(SHARE, queue, others=[worker(*ALL, id=1)]).variant == "fp32"
    assert chosen(SHARE, queue, others=[worker("tiny", id=1)]).variant == "int8"


def test_those_who_may_not_use_the_shared_variant_count_at_their_own():
    queue = [queued(1, *ALL, deadline_s=60 * MS), queued(2, "fp32", deadline_s=75 * MS)]
    assert chosen(SHARE, queue).variant == "int8"


def test_in_a_lost_queue_the_head_takes_the_best_variant_that_costs_no_further_deadline():
    lost = [queued(1, *ALL, deadline_s=41 * MS), queued(2, "fp32", deadline_s=41.5 * MS)]
    relaxed, tight = (queued(3, "tiny", deadline_s=limit * MS) for limit in (100, 41.8))
    assert chosen(SHARE, [*lost, relaxed]).variant == "fp32"
    assert chosen(SHARE, [*lost, tight]).variant == "int8"


def test_a_burst_without_deadlines_never_costs_accuracy():
    assert chosen(SHARE, [queued(id, *ALL) for id in range(64)]).variant == "fp32"


def test_a_head_without_deadline_still_leaves_time_for_those_behind():
    queue = [queued(1, *ALL, urgency=0), queued(2, "int8", deadline_s=30 * MS)]
    assert chosen(SHARE, queue).variant == "int8"


@pytest.mark.parametrize("policy", [GREEDY, SHARE])
def test_nothing_is_batched_where_the_profile_says_that_it_does_not_pay(policy):
    assert chosen(policy, [queued(id, "int8") for id in range(8)]).requests == (0,)


@pytest.mark.parametrize("policy", [GREEDY, SHARE])
def test_what_pays_is_batched_up_to_the_limit(policy):
    queue = [queued(id, "x") for id in range(8)]
    assert chosen(policy, queue, [batching()]).requests == tuple(range(8))
    assert chosen(policy, queue, [batching()], max_batch=4).requests == (0, 1, 2, 3)


def test_only_requests_that_may_use_the_variant_join():
    queue = [queued(1, "x"), queued(2, "y"), queued(3, "x", "y")]
    found = chosen(SHARE, queue, [batching(), batching("y")])
    assert (found.variant, found.requests) == ("x", (1, 3))


def test_nobody_joins_who_would_rather_wait_for_a_better_variant():
    queue = [queued(1, "x", deadline_s=15 * MS), queued(2, "best", "x", deadline_s=5.0)]
    best = batching("best", accuracy=0.99)
    assert chosen(SHARE, queue, [batching(), best]).requests == (1,)


def test_a_batch_makes_no_member_late():
    queue = [queued(1, "x", deadline_s=11.5 * MS), *(queued(id, "x") for id in range(2, 8))]
    assert chosen(SHARE, queue, [batching()]).requests == (1, 2)


def test_a_batch_is_given_up_where_it_would_cost_another_its_deadline():
    fast = candidate("fast", ms=0.5)
    queue = [queued(1, "x", deadline_s=1.0, urgency=0), queued(2, "x", deadline_s=1.1)]
    queue += [queued(3, "fast", deadline_s=10.6 * MS)]
    assert chosen(SHARE, queue, [batching(), fast]).requests == (1,)


def test_batches_that_pay_keep_the_accuracy_up():
    slow = batching("slow", accuracy=0.99)
    queue = [queued(id, "slow", "tiny", deadline_s=30 * MS) for id in range(8)]
    found = chosen(SHARE, queue, [slow, *ladder()])
    assert (found.variant, found.requests) == ("slow", tuple(range(8)))


def test_a_request_larger_than_the_batch_limit_runs_alone():
    queue = [queued(1, "x", rows=10), queued(2, "x")]
    assert chosen(SHARE, queue, [batching()], max_batch=4).requests == (1,)


def test_an_unmeasured_variant_serves_who_set_no_deadline():
    assert chosen(SHARE, [queued(1, "new")], [candidate("new", ms=None)]).variant == "new"


def test_an_unmeasured_variant_is_not_started_before_a_deadline():
    new = candidate("new", ms=None, accuracy=0.99)
    queue = [queued(1, "new", "tiny"), queued(2, "tiny", deadline_s=1.0, urgency=4)]
    assert chosen(SHARE, queue, [new, *ladder()]).variant == "tiny"


def test_an_infinite_deadline_is_no_deadline():
    assert chosen(SHARE, [queued(1, *ALL, deadline_s=math.inf)]).variant == "fp32"


@pytest.mark.parametrize("policy", names())
def test_what_this_worker_cannot_run_is_not_asked_of_it_whatever_is_foretold(policy):
    queue = [queued(1, "int8"), queued(2, "fp32"), queued(3, "tiny")]
    forecast = Forecast()
    for request in queue * 5:
        forecast.arrived(0.0, Waiting().add(request), 1.0)
    here = worker("int8", "tiny")
    found = run(find(policy), queue, ladder(), worker=here, forecast=forecast, now_s=0.5)
    assert found.choice is not None
    assert 2 not in found.choice.requests
    assert found.drop == ()


def test_arrivals_at_a_high_rate_are_forgotten_and_the_rate_stays_right() -> None:
    forecast, kind = Forecast(), Waiting().add(queued(0))
    for number in range(50_000):
        forecast.arrived(number / 10_000, kind, 60.0)
    counts, each = forecast.expected(5.0)
    assert counts[kind] <= 4096
    assert counts[kind] * each == pytest.approx(10_000 * forecast.horizon_s, rel=0.01)


@examples
@given(
    count=st.integers(1, 12),
    rows=st.integers(1, 3),
    medians=st.lists(seconds, min_size=4, max_size=4),
    policy=st.sampled_from(names()),
)
def test_alike_requests_share_a_run_as_if_they_were_not(count, rows, medians, policy):
    service = {size: flat(ms) for size, ms in zip((1, 2, 4, 8), sorted(medians), strict=True)}
    alike = [queued(id, "x", rows=rows) for id in range(count)]
    too_large = queued(99, "x", rows=9, urgency=7)  # never joins; with it, no two are taken as one
    only = chosen(find(policy), alike, [candidate("x", service=service)])
    beside = chosen(find(policy), [*alike, too_large], [candidate("x", service=service)])
    assert only == beside
