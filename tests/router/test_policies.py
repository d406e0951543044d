"""The contract of every policy, over random queues, candidates and fleets."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dispatch import dispatch
from router.fleet import Queued, queue_order
from router.outlook import Outlook
from router.policies import find, names, shadow_price
from router.waiting import Waiting
from tests.router import cases

every_policy = pytest.mark.parametrize("name", names())

situations = st.fixed_dictionaries(
    {
        "queue": cases.queues(),
        "candidates": cases.candidates(min_size=1),
        "fleet": cases.fleets(),
        "overhead_s": st.floats(0, 0.01),
        "max_batch": st.integers(1, 8),
    }
)


def decide(name, situation):
    fleet = situation["fleet"]
    return dispatch(
        find(name),
        queue=Waiting(situation["queue"]),
        outlook=Outlook({each.variant: each for each in situation["candidates"]}, fleet[0].loaded),
        others=fleet[1:],
        now_s=0.0,
        overhead_s=situation["overhead_s"],
        max_batch=situation["max_batch"],
    )


def alone_s(situation, request, variants, percentile=None):
    """Seconds to the reply of this request, started now, on each of its variants.

    Admission promises the caller's own quantile; what is queued is given up by its median.
    """
    percentile = percentile or request.percentile
    by_id = {each.variant: each for each in situation["candidates"]}
    found = (by_id[name] for name in request.eligible if name in by_id and name in variants)
    return {
        each.variant: situation["overhead_s"] + each.service_s(request.rows, percentile)
        if each.service
        else math.inf
        for each in found
        if each.blocked is None
    }


def servable_here(situation, request):
    times_s = alone_s(situation, request, situation["fleet"][0].loaded, percentile=50)
    if not times_s:
        return False
    return not request.drop_late or min(times_s.values()) <= request.deadline_s


@every_policy
@cases.examples
@given(situations)
def test_a_choice_keeps_to_what_is_loaded_eligible_and_small_enough(name, situation):
    choice = decide(name, situation).choice
    if choice is None:
        return
    by_id = {request.id: request for request in situation["queue"]}
    batch = [by_id[id] for id in choice.requests]
    assert len(set(choice.requests)) == len(batch)
    assert choice.variant in situation["fleet"][0].loaded
    for request in batch:
        assert choice.variant in alone_s(situation, request, {choice.variant})
    assert len(batch) == 1 or sum(request.rows for request in batch) <= situation["max_batch"]


@every_policy
@cases.examples
@given(situations)
def test_somebody_who_can_be_served_here_always_is(name, situation):
    choice = decide(name, situation).choice
    servable = {each.id for each in situation["queue"] if servable_here(situation, each)}
    if not servable:
        assert choice is None
    else:
        assert choice is not None
        assert set(choice.requests) <= servable


@pytest.mark.parametrize("name", ["greedy_deadline", "share_slack"])
@cases.examples
@given(situations)
def test_the_first_request_that_can_be_served_here_goes_first(name, situation):
    choice = decide(name, situation).choice
    ordered = sorted(situation["queue"], key=queue_order)
    head = next((request for request in ordered if servable_here(situation, request)), None)
    assert head is None or choice.requests[0] == head.id


@every_policy
@cases.examples
@given(situations)
def test_only_the_hopeless_are_dropped(name, situation):
    found = decide(name, situation)
    for request in situation["queue"]:
        times_s = alone_s(situation, request, set(request.eligible), percentile=50)
        fastest_s = min(times_s.values(), default=math.inf)
        measured_s = situation["overhead_s"] if math.isinf(fastest_s) else fastest_s
        hopeless = request.drop_late and measured_s > request.deadline_s
        assert (request.id in found.drop) == hopeless
    assert found.choice is None or not set(found.drop) & set(found.choice.requests)


@every_policy
@cases.examples
@given(situations)
def test_no_promise_is_broken_by_a_choice(name, situation):
    """Whoever is dropped when late is predicted in time; a batch makes nobody late."""
    choice = decide(name, situation).choice
    if choice is None:
        return
    batch = [request for request in situation["queue"] if request.id in choice.requests]
    variant = next(each for each in situation["candidates"] if each.variant == choice.variant)
    rows = sum(request.rows for request in batch)
    for request in batch:
        alone = alone_s(situation, request, {choice.variant})[choice.variant]
        if not variant.service:
            assert len(batch) == 1
            assert not request.drop_late or request.deadline_s == math.inf
            continue
        together = situation["overhead_s"] + variant.service_s(rows, request.percentile)
        if request.drop_late and request.id == choice.requests[0]:
            assert situation["overhead_s"] + variant.service_s(rows, 50) <= request.deadline_s
        if alone <= request.deadline_s:
            assert together <= request.deadline_s


@every_policy
@cases.examples
@given(situations)
def test_a_batch_takes_less_time_than_one_by_one(name, situation):
    choice = decide(name, situation).choice
    if choice is None or len(choice.requests) == 1:
        return
    batch = [request for request in situation["queue"] if request.id in choice.requests]
    variant = next(each for each in situation["candidates"] if each.variant == choice.variant)
    together = variant.service_s(sum(request.rows for request in batch), 50)
    assert together < sum(variant.service_s(request.rows, 50) for request in batch)


@every_policy
@cases.examples
@given(situations, st.randoms(use_true_random=False))
def test_input_order_does_not_matter_and_choices_repeat(name, situation, random):
    found = decide(name, situation)
    assert decide(name, situation) == found
    shuffled = {
        **situation,
        "queue": random.sample(situation["queue"], len(situation["queue"])),
        "candidates": random.sample(situation["candidates"], len(situation["candidates"])),
    }
    assert decide(name, shuffled) == found


@st.composite
def feasible_queues(draw: st.DrawFn) -> list[Queued]:
    """Queues that one worker can serve in time, in order, everybody at the fastest variant."""
    clock_s, queue = 0.0, []
    for id in range(draw(st.integers(1, 12))):
        floor = draw(st.integers(0, 2))
        eligible = ("fp32", "int8", "tiny")[: 3 - floor]
        clock_s += {"tiny": 0.002, "int8": 0.010, "fp32": 0.040}[eligible[-1]]
        deadline_s = clock_s + 1e-9 + draw(st.floats(0, 0.1))
        previous_s = queue[-1].deadline_s if queue else 0.0
        queue.append(cases.queued(id, *eligible, deadline_s=max(deadline_s, previous_s)))
    return queue


@pytest.mark.parametrize("name", ["share_slack", "shadow_price"])
@cases.examples
@given(feasible_queues())
def test_every_queue_that_can_be_served_is_served(name, queue):
    """With exact profiles, nobody is late or dropped whom the fastest variants would have met."""
    now_s, left = 0.0, list(queue)
    while left:
        found = cases.run(find(name), left, cases.ladder(), now_s=now_s)
        assert found.drop == ()
        service_s = {"tiny": 0.002, "int8": 0.010, "fp32": 0.040}[found.choice.variant]
        now_s += service_s * len(found.choice.requests)
        left = [request for request in left if request.id not in found.choice.requests]


@given(st.integers(0, 40), st.integers(0, 40), st.integers(-5, 60), st.integers(0, 60))
def test_the_least_level_that_fits_is_found_wherever_the_search_begins(low, span, hint, first):
    high = low + span
    asked = []

    def fits(level):
        asked.append(level)
        return level >= min(first, high)

    assert shadow_price._least(low, high, hint, fits) == max(low, min(first, high))
    assert all(low <= level < high for level in asked)
