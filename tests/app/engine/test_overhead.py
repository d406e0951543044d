"""The overhead's estimate is a high quantile that one stall does not move far."""

import random

import pytest

from app.engine.overhead import Overhead


@pytest.mark.parametrize("scale_s", [0.0002, 0.001, 0.02])
def test_about_nine_of_ten_measurements_lie_below_the_estimate(scale_s: float) -> None:
    drawn = random.Random(1)
    overhead = Overhead(0.001)
    below = 0
    for number in range(20_000):
        measured_s = drawn.lognormvariate(0, 0.5) * scale_s
        below += number >= 10_000 and measured_s <= overhead.value_s
        overhead.observe(measured_s)
    assert 0.87 < below / 10_000 < 0.93


def test_a_stall_of_a_second_moves_the_estimate_by_less_than_a_twentieth() -> None:
    overhead = Overhead(0.001)
    overhead.observe(1.0)
    assert 0.001 < overhead.value_s < 0.00105


def test_the_estimate_stays_above_zero() -> None:
    overhead = Overhead(0.001)
    for _ in range(5_000):
        overhead.observe(0.0)
    assert overhead.value_s > 0
