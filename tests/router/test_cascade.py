"""A cascade is judged as a whole, and by the dearest way that it can go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.admission import admit
from router.cascade import best, promise, stands_alone
from router.constraints import Constraints
from router.decision import Verdict
from tests.router.cases import candidate, worker
from variants.evidence import Cascade, Interval


def cascade(first: str = "fast", then: str = "best", *, low: float = 0.93) -> Cascade:
    return Cascade(
        first=first,
        then=then,
        threshold=0.8,
        max_drop_points=0.5,
        n=1000,
        escalation=Interval(value=0.2, low=0.15, high=0.25),
        accuracy=Interval(value=low + 0.01, low=low, high=low + 0.02),
        latency_s=0.012,
    )


def verdicts(constraints: Constraints, **blocked: str) -> dict[str, Verdict]:
    """Two variants on an idle worker: 10 ms and 40 ms, 10 and 40 dollars, 0.8 and 0.95."""
    found = admit(
        constraints,
        [
            candidate("fast", ms=10, cost=10.0, accuracy=0.8, blocked=blocked.get("fast")),
            candidate("best", ms=40, cost=40.0, accuracy=0.95, blocked=blocked.get("best")),
        ],
        reference="best",
        queue=[],
        workers=[worker("fast", "best")],
        now_s=0.0,
        rows=1,
        overhead_s=0.0,
        queue_limit=10,
    )
    return {verdict.variant: verdict for verdict in found.verdicts}


def kept(constraints: Constraints, **blocked: str) -> bool:
    found = verdicts(constraints, **blocked)
    return best(constraints, [cascade()], found, reference_accuracy=0.95) is not None


@pytest.mark.parametrize(
    ("constraints", "keeps"),
    [
        (Constraints(), True),
        (Constraints(max_latency_s=0.051), True),
        (Constraints(max_latency_s=0.049), False),  # both one after the other take 50 ms
        (Constraints(max_cost_usd_per_million=50.0), True),
        (Constraints(max_cost_usd_per_million=49.0), False),
        (Constraints(min_accuracy=0.93), True),
        (Constraints(min_accuracy=0.935), False),
        (Constraints(min_accuracy=0.935, accuracy_point=True), True),
        (Constraints(max_accuracy_drop_points=1.0), True),
        (Constraints(max_accuracy_drop_points=0.9), False),
        (Constraints(variants=("fast", "best")), True),
        (Constraints(variants=("fast",)), False),
        # A soft bound is held, too: without a cascade that keeps it, the request is routed as ever.
        (Constraints(min_accuracy=0.94, soft=frozenset({"min_accuracy"})), False),
    ],
)
def test_every_bound_is_held_against_both_together_and_the_floor_against_its_own(
    constraints: Constraints, keeps: bool
) -> None:
    assert kept(constraints) == keeps


def test_both_variants_must_be_there_and_sound() -> None:
    assert not kept(Constraints(), fast="broken")
    assert not kept(Constraints(), best="broken")
    constraints = Constraints()
    lone = {"fast": verdicts(constraints)["fast"]}
    assert best(constraints, [cascade()], lone, reference_accuracy=None) is None


def test_the_objective_chooses_between_cascades() -> None:
    good, cheap = cascade(low=0.94), cascade(then="fast", low=0.90)
    for objective, wanted in (("accuracy", good), ("cost", cheap), ("latency", cheap)):
        constraints = Constraints(objective=objective)  # type: ignore[arg-type]
        found = verdicts(constraints)
        assert best(constraints, [good, cheap], found, reference_accuracy=None) == wanted


def test_what_is_promised_is_the_longer_way_the_expected_cost_and_the_own_accuracy() -> None:
    found = promise(cascade(), verdicts(Constraints()))
    assert found.predicted_latency_s == pytest.approx(0.05)
    assert found.cost_usd_per_million == pytest.approx(10 + 0.2 * 40)
    assert (found.accuracy, found.accuracy_low) == (0.9400000000000001, 0.93)


@given(floor=st.floats(0, 1), low=st.floats(0, 0.97), drop=st.none() | st.floats(0, 20))
def test_no_cascade_is_used_below_a_floor(floor: float, low: float, drop: float | None) -> None:
    constraints = Constraints(min_accuracy=floor, max_accuracy_drop_points=drop)
    found = verdicts(constraints)
    chosen = best(constraints, [cascade(low=low)], found, reference_accuracy=0.95)
    if chosen is not None:
        assert chosen.accuracy.low >= floor
        assert drop is None or 100 * (0.95 - chosen.accuracy.value) <= drop + 1e-6


def test_the_first_stands_alone_only_where_it_keeps_the_accuracy_bounds_itself() -> None:
    assert stands_alone(verdicts(Constraints(max_latency_s=0.001))["fast"])
    assert not stands_alone(verdicts(Constraints(min_accuracy=0.9))["fast"])
    assert not stands_alone(verdicts(Constraints(max_accuracy_drop_points=1.0))["fast"])
