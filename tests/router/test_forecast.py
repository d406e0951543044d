import pytest

from router.forecast import AHEAD, LEAST, WINDOWS, Forecast
from router.kind import Kinds

KINDS = Kinds()
A = KINDS.of(("a",), 1, 95, "accuracy", 3)
B = KINDS.of(("a", "b"), 1, 95, "accuracy", 3)


def test_it_expects_what_came_at_the_rate_at_which_it_came():
    forecast = Forecast()
    for number in range(300):
        forecast.arrived(number * 0.01, A if number % 3 else B, 0.2)
    counts, each = forecast.expected(3.0)
    ahead_s = forecast.horizon_s
    assert ahead_s == pytest.approx(AHEAD * 0.2)
    assert counts[A] * each == pytest.approx(ahead_s * 100 * 2 / 3, rel=0.1)
    assert counts[B] * each == pytest.approx(ahead_s * 100 / 3, rel=0.1)


def test_what_is_long_past_is_forgotten_but_for_a_few():
    forecast = Forecast()
    for number in range(100):
        forecast.arrived(number * 0.001, A, 0.1)
    counts, each = forecast.expected(1000.0)
    assert counts[A] == LEAST
    assert counts[A] * each < 0.01


def test_the_first_arrivals_are_no_flood():
    forecast = Forecast()
    forecast.arrived(5.0, A, 1.0)
    forecast.arrived(5.0, A, 1.0)
    counts, each = forecast.expected(5.0)
    assert counts[A] * each <= 2 / WINDOWS


def test_without_arrivals_nothing_is_expected():
    assert Forecast().expected(1.0) == ({}, 0.0)
