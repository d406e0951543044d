"""How alike two variants' answers are."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from variants.agreement import TOLERANCE, likeness

scores = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 20), st.integers(1, 5)),
    elements=st.floats(-10, 10, width=32),
)


@given(scores, st.booleans())
def test_a_variant_agrees_with_itself(found: np.ndarray, classes: bool) -> None:
    same = likeness(found, found.copy(), classes=classes)
    assert (same.n, same.agreed, same.max_abs_difference) == (len(found), len(found), 0.0)
    assert same.interval.value == 1.0


@given(scores)
def test_classes_agree_by_their_largest_score_whatever_the_scale(found: np.ndarray) -> None:
    assert likeness(found, found * 4, classes=True).agreed == len(found)


def test_rows_with_another_largest_score_are_counted() -> None:
    one = np.array([[1, 2, 3], [3, 2, 1], [0, 5, 0]], dtype=np.float32)
    other = np.array([[1, 2, 3], [1, 2, 3], [0, 5, 0.5]], dtype=np.float16)
    found = likeness(one, other, classes=True)
    assert (found.n, found.agreed, found.max_abs_difference) == (3, 2, 2.0)
    assert found.interval.low < 2 / 3 < found.interval.high


@pytest.mark.parametrize(
    ("value", "other", "agreed", "gap"),
    [
        (0.0, TOLERANCE * 0.9, 1, TOLERANCE * 0.9),
        (0.0, TOLERANCE * 1.2, 0, TOLERANCE * 1.2),
        (100.0, 104.0, 1, 4.0),
        (100.0, 120.0, 0, 20.0),
        (math.nan, math.nan, 1, 0.0),
        (math.nan, 1.0, 0, math.inf),
        (math.inf, math.inf, 1, 0.0),
        (math.inf, -math.inf, 0, math.inf),
    ],
)
def test_other_numbers_agree_within_the_tolerance(
    value: float, other: float, agreed: int, gap: float
) -> None:
    one, two = np.full((1, 2, 2), value), np.full((1, 2, 2), other)
    two[0, 0, 0] = value
    found = likeness(one, two, classes=False)
    assert found.agreed == agreed
    assert found.max_abs_difference == pytest.approx(gap)
