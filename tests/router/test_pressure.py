"""The ladder of overload is climbed at once and left with a delay."""

import pytest

from router.pressure import HOLD_S, WINDOW_S, Pressure


def test_normal_until_something_is_shed() -> None:
    pressure = Pressure()
    for number in range(1000):
        pressure.count(number / 100, shed=False)
        assert pressure.rung(number / 100, fill_ratio=0.4) == 0


@pytest.mark.parametrize(("every", "rung"), [(10, 1), (30, 0)])
def test_pressed_where_more_than_one_in_twenty_is_shed(every: int, rung: int) -> None:
    pressure = Pressure()
    for number in range(1, 61):
        pressure.count(1.0 + number / 1000, shed=number % every == 0)
    assert pressure.rung(1.1, fill_ratio=0.0) == rung


def test_a_single_late_request_is_no_overload() -> None:
    pressure = Pressure()
    pressure.count(1.0, shed=True)
    assert pressure.rung(1.0, fill_ratio=0.0) == 0


def test_a_queue_that_fills_is_pressed_and_a_full_one_sheds() -> None:
    pressure = Pressure()
    assert pressure.rung(1.0, fill_ratio=0.5) == 1
    assert pressure.rung(1.1, fill_ratio=1.0) == 2
    assert pressure.rung(1.2, fill_ratio=0.1) == 1
    assert pressure.rung(1.1 + HOLD_S, fill_ratio=0.1) == 0


def test_what_was_shed_long_ago_does_not_count() -> None:
    pressure = Pressure()
    for _ in range(10):
        pressure.count(1.0, shed=True)
    later = 1.0 + HOLD_S + WINDOW_S
    for _ in range(10):
        pressure.count(later, shed=False)
    assert pressure.rung(later, fill_ratio=0.0) == 0
