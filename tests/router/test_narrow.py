"""What holds where a caller and its key both set bounds."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from router.constraints import BOUNDS, Constraints
from router.narrow import allow_only, narrow
from variants.terms import UNLIMITED, Terms

NUMBER = st.none() | st.floats(0.001, 1000)
ASKED = st.builds(
    Constraints,
    max_latency_s=NUMBER,
    max_cost_usd_per_million=NUMBER,
    min_accuracy=NUMBER,
    accuracy_point=st.booleans(),
    max_accuracy_drop_points=NUMBER,
    soft=st.frozensets(st.sampled_from(BOUNDS)),
    lenient=st.booleans(),
)
TERMS = st.builds(
    Terms,
    max_latency_s=NUMBER,
    max_cost_usd_per_million=NUMBER,
    min_accuracy=NUMBER,
    max_accuracy_drop_points=NUMBER,
)
KEY = {
    "max_latency": "max_latency_s",
    "max_cost": "max_cost_usd_per_million",
    "min_accuracy": "min_accuracy",
    "max_accuracy_drop": "max_accuracy_drop_points",
}


@given(ASKED, TERMS)
def test_what_holds_is_the_stricter_of_both_and_hard_where_the_key_has_a_bound(
    asked: Constraints, terms: Terms
) -> None:
    found = narrow(asked, terms)
    sides = dict(found.sides)
    for bound, name in KEY.items():
        own, key = asked.limit(bound), getattr(terms, name)  # type: ignore[arg-type]
        holds = found.constraints.limit(bound)  # type: ignore[arg-type]
        both = [limit for limit in (own, key) if limit is not None]
        worst = max if bound == "min_accuracy" else min
        assert holds == (worst(both) if both else None)
        if key is None:
            assert bound not in sides
            assert found.constraints.is_hard(bound) == asked.is_hard(bound)  # type: ignore[arg-type]
        else:
            assert found.constraints.is_hard(bound)  # type: ignore[arg-type]
            assert sides[bound] == ("request" if holds == own else "key")  # type: ignore[index]
    assert isinstance(hash(found.constraints), int)
    assert found.constraints.effective_objective == asked.effective_objective


@given(ASKED)
def test_a_key_without_bounds_changes_nothing(asked: Constraints) -> None:
    assert narrow(asked, UNLIMITED).constraints is asked
    assert narrow(asked, Terms(requests_per_s=1.0)).constraints is asked


def test_a_floor_of_the_key_is_held_against_the_lower_bound() -> None:
    asked = Constraints(min_accuracy=0.95, accuracy_point=True)
    assert not narrow(asked, Terms(min_accuracy=0.9)).constraints.accuracy_point
    assert narrow(asked, Terms(max_latency_s=1.0)).constraints.accuracy_point


def test_only_allowed_variants_stay_eligible() -> None:
    asked = Constraints(variants=("fp32", "int8"))
    assert allow_only(asked, None) is asked
    assert allow_only(asked, frozenset({"int8", "fp16"})).variants == ("int8",)
    anything = replace(asked, variants=None)
    assert allow_only(anything, frozenset({"b", "a"})).variants == ("a", "b")
