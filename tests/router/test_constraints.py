import pytest

from router.constraints import Constraints


@pytest.mark.parametrize(
    ("given", "objective"),
    [
        ({}, "accuracy"),
        ({"max_latency_s": 0.05}, "accuracy"),
        ({"min_accuracy": 0.9}, "cost"),
        ({"max_accuracy_drop_points": 1.0}, "cost"),
        ({"min_accuracy": 0.9, "max_cost_usd_per_million": 5.0}, "latency"),
        ({"min_accuracy": 0.9, "max_cost_usd_per_million": 5.0, "max_latency_s": 1.0}, "accuracy"),
        ({"objective": "latency"}, "latency"),
    ],
)
def test_the_default_objective_is_the_first_that_the_caller_left_open(given, objective):
    assert Constraints(**given).effective_objective == objective


def test_bounds_are_hard_unless_named_soft():
    constraints = Constraints(soft=frozenset({"max_cost"}))
    assert not constraints.is_hard("max_cost")
    assert constraints.is_hard("max_latency")


def test_lenient_softens_every_bound_but_the_allow_list():
    constraints = Constraints(lenient=True, soft=frozenset({"variants"}))
    assert constraints.is_hard("variants")
    assert not any(map(constraints.is_hard, ("max_latency", "min_accuracy", "max_accuracy_drop")))


@pytest.mark.parametrize(
    "given",
    [
        {"max_latency_s": -1.0},
        {"max_cost_usd_per_million": float("nan")},
        {"min_accuracy": float("inf")},
        {"latency_percentile": 100},
        {"urgency": 8},
    ],
)
def test_senseless_bounds_are_refused(given):
    with pytest.raises(ValueError, match="must be"):
        Constraints(**given)
