import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.constraints import Constraints
from router.gate import Gate
from router.waiting import Waiting
from router.weights import Weights
from tests.router import cases

weights = st.floats(0, 10, allow_nan=False)


def preferred(objective, **bounds):
    decision = Gate(cases.ladder(), "fp32").decide(
        Constraints(objective=objective, **bounds),
        queue=Waiting(),
        workers=[cases.worker("fp32", "int8", "tiny")],
        now_s=0.0,
        rows=1,
        overhead_s=0.0,
        queue_limit=8,
    )
    return decision.preferred, decision.reason


def test_weights_move_the_choice_between_the_extremes():
    assert preferred(Weights(accuracy=1.0)) == ("fp32", "best_weighted")
    assert preferred(Weights(accuracy=0.5, cost=0.5)) == ("int8", "best_weighted")
    assert preferred(Weights(cost=1.0)) == ("tiny", "best_weighted")
    assert preferred(Weights(accuracy=0.1, latency=0.9)) == ("tiny", "best_weighted")


def test_bounds_hold_whatever_the_weights():
    found = preferred(Weights(cost=1.0), min_accuracy=0.9, accuracy_point=True)
    assert found == ("int8", "best_weighted")


@pytest.mark.parametrize("wrong", [{}, {"cost": -1.0}, {"accuracy": float("nan")}])
def test_weights_that_say_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="weights must be"):
        Weights(**wrong)


@cases.examples
@given(cases.candidates(min_size=1), weights, weights, weights, st.floats(0.1, 9))
def test_scores_lie_between_none_and_one_and_only_proportions_count(
    candidates, accuracy, cost, latency, factor
):
    if accuracy + cost + latency == 0:
        return
    one = Weights(accuracy=accuracy, cost=cost, latency=latency).over(candidates)
    same = Weights(accuracy=factor * accuracy, cost=factor * cost, latency=factor * latency).over(
        candidates
    )
    for candidate in candidates:
        assert -1e-9 <= one.score(candidate) <= 1 + 1e-9
        assert one.score(candidate) == pytest.approx(same.score(candidate))
