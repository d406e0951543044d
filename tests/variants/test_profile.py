"""Measured numbers: the interval of an accuracy, and which quantile answers a percentile."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from variants.profile import Accuracy, Quantiles, host_fingerprint


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3 (Wilson).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_equals_published_values(
    correct: int, n: int, low: float, high: float
) -> None:
    accuracy = Accuracy.of(correct, n)
    assert (round(accuracy.low, 4), round(accuracy.high, 4)) == (low, high)
    assert accuracy.value == correct / n


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_lies_in_zero_to_one_around_the_value(drawn: tuple[int, int]) -> None:
    accuracy = Accuracy.of(*drawn)
    tolerance = 1e-12
    assert 0.0 <= accuracy.low <= accuracy.value + tolerance
    assert accuracy.value - tolerance <= accuracy.high <= 1.0


@given(st.integers(1, 1000), st.integers(2, 1000))
def test_more_rows_narrow_the_interval(n: int, factor: int) -> None:
    few, many = Accuracy.of(n // 2, n), Accuracy.of(n // 2 * factor, n * factor)
    assert many.high - many.low < few.high - few.low


@pytest.mark.parametrize(
    ("percentile", "expected"),
    [(1, 1.0), (50, 1.0), (51, 2.0), (90, 2.0), (95, 2.0), (96, 3.0), (99, 3.0)],
)
def test_percentile_is_answered_by_the_next_recorded_quantile(
    percentile: int, expected: float
) -> None:
    assert Quantiles(p50=1.0, p95=2.0, p99=3.0).at(percentile) == expected


def test_host_fingerprint_is_one_stable_line() -> None:
    assert host_fingerprint() == host_fingerprint()
    assert "cores" in host_fingerprint()
    assert "\n" not in host_fingerprint()
