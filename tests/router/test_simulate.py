"""The simulator on cases whose outcome is known, and what holds of every run."""

from hypothesis import given
from hypothesis import strategies as st

from router.constraints import Constraints
from router.policies import find, names
from router.simulate import Arrival, simulate
from tests.router import cases

LADDER = cases.ladder()
SERVICE = {each.variant: {b: [q.p50] for b, q in each.service.items()} for each in LADDER}
ACCURATE = {each.variant: each.accuracy.value for each in LADDER}


def play(policy, arrivals, **options):
    return simulate(
        find(policy),
        candidates=LADDER,
        service=SERVICE,
        arrivals=arrivals,
        **({"workers": 1, "seed": 1} | options),
    )


def at(ms, limit_ms=None, **bounds):
    limit_s = None if limit_ms is None else limit_ms / 1000
    return Arrival(at_us=ms * 1000, constraints=Constraints(max_latency_s=limit_s, **bounds))


def test_one_request_takes_the_time_of_its_variant():
    (outcome,) = play("greedy_deadline", [at(5, limit_ms=20)]).outcomes
    assert (outcome.status, outcome.variant) == ("answered", "int8")
    assert (outcome.start_us, outcome.finish_us) == (5_000, 15_000)


def test_nobody_is_served_below_the_floor_and_the_impossible_is_refused():
    arrivals = [at(0, limit_ms=20, min_accuracy=0.915, accuracy_point=True), at(1, limit_ms=1)]
    assert [o.status for o in play("shadow_price", arrivals).outcomes] == ["infeasible"] * 2


def test_what_waits_too_long_is_dropped_and_late_where_nothing_is_dropped():
    arrivals = [at(0, limit_ms=12, variants=("int8",)) for _ in range(3)]
    dropped = play("greedy_deadline", arrivals)
    assert [o.status for o in dropped.outcomes] == ["answered", "dropped", "dropped"]
    late = play("greedy_deadline", arrivals, early_drop=False)
    assert [o.status for o in late.outcomes] == ["answered", "late", "late"]


def test_two_workers_serve_two_at_once():
    arrivals = [at(0, limit_ms=12, variants=("int8",)) for _ in range(2)]
    statuses = [o.status for o in play("greedy_deadline", arrivals, workers=2).outcomes]
    assert statuses == ["answered", "answered"]


def test_drift_and_overhead_lengthen_what_runs_take():
    arrivals = [at(0, limit_ms=100, variants=("int8",))]
    slow = play("greedy_deadline", arrivals, drift=lambda _: 2.0, overhead_s=0.001)
    assert slow.outcomes[0].finish_us == 21_000


waves = st.lists(
    st.tuples(st.integers(0, 200), st.sampled_from((None, 10, 50, 400)), st.booleans()),
    min_size=1,
    max_size=30,
)


@cases.examples
@given(waves, st.sampled_from(names()), st.integers(1, 3), st.booleans())
def test_every_arrival_has_one_outcome_and_runs_repeat(wave, policy, workers, admission):
    arrivals = [
        at(ms, limit_ms=limit, min_accuracy=0.9 if floored else None, accuracy_point=floored)
        for ms, limit, floored in sorted(wave, key=lambda each: each[0])
    ]
    options = {"workers": workers, "admission": admission}
    run = play(policy, arrivals, **options)
    assert [outcome.arrival for outcome in run.outcomes] == list(range(len(arrivals)))
    assert play(policy, arrivals, **options).outcomes == run.outcomes
    busy = []
    for outcome, arrival in zip(run.outcomes, arrivals, strict=True):
        asked = arrival.constraints
        if outcome.status in ("answered", "late"):
            assert asked.min_accuracy is None or ACCURATE[outcome.variant] >= asked.min_accuracy
            taken_s = (outcome.finish_us - arrival.at_us) / 1e6
            in_time = asked.max_latency_s is None or taken_s <= asked.max_latency_s + 1e-9
            assert in_time == (outcome.status == "answered")
            busy.append((outcome.start_us, outcome.finish_us))
    for start, _ in busy:
        running = {span for span in busy if span[0] <= start < span[1]}
        assert len(running) <= workers
