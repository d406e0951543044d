"""What a key may do, as names and numbers."""

import math

import pytest

from variants.errors import Invalid
from variants.terms import UNLIMITED, Terms, allowed, names


def test_without_limits_everything_is_allowed() -> None:
    assert UNLIMITED.allows("fashion") and UNLIMITED.allows("fashion", "int8")
    assert not UNLIMITED.bounded


def test_only_the_named_models_and_variants_are_allowed() -> None:
    terms = Terms(allow=allowed(["fashion", "text/int8", "text/fp16"]))
    assert terms.allows("fashion") and terms.allows("fashion", "anything")
    assert terms.allows("text") and terms.allows("text", "int8")
    assert not terms.allows("text", "fp32")
    assert not terms.allows("other")


def test_a_model_by_itself_allows_all_of_its_variants_in_any_order() -> None:
    for given in (["text", "text/int8"], ["text/int8", "text"]):
        assert allowed(given) == {"text": None}
        assert names(allowed(given)) == ["text"]
    assert names(allowed(["b/y", "b/x", "a"])) == ["a", "b/x", "b/y"]


@pytest.mark.parametrize("name", ["", "/", "a/", "/a", "a/b/c", "A", "a b", "é", "a\n", "x" * 64])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="allow"):
        allowed([name])


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["max_cost_usd_per_million", "min_accuracy", "usd_per_day"])
def test_a_number_that_cannot_be_a_limit_is_refused(name: str, value: float) -> None:
    with pytest.raises(Invalid) as refused:
        Terms(**{name: value})
    assert refused.value.field == name


@pytest.mark.parametrize("name", ["max_latency_s", "requests_per_s"])
def test_no_request_could_ever_pass_a_limit_of_zero(name: str) -> None:
    with pytest.raises(Invalid):
        Terms(**{name: 0.0})
