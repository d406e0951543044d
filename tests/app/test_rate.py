"""How many requests pass in how much time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.rate import Rate


@given(
    st.floats(0.1, 200),
    st.lists(st.floats(0, 0.5), min_size=1, max_size=200),
)
def test_never_more_than_the_quota_and_what_the_time_brings(
    per_s: float, gaps_s: list[float]
) -> None:
    rate, now_s = Rate(per_s), 1000.0
    times: list[float] = []
    for gap_s in gaps_s:
        now_s += gap_s
        if rate.take(now_s) == 0.0:
            times.append(now_s)
    for first, start in enumerate(times):
        for last in range(first, len(times)):
            most = rate.quota + (times[last] - start) * per_s
            assert last - first + 1 <= most + 1e-6


@pytest.mark.parametrize("per_s", [0.25, 1.0, 2.5, 50.0, 1e6])
def test_who_waits_as_long_as_told_passes(per_s: float) -> None:
    rate, now_s = Rate(per_s), 5.0
    for _ in range(rate.quota):
        assert rate.take(now_s) == 0.0
    wait_s = rate.take(now_s)
    assert 0.0 < wait_s <= 1.0 / per_s + 1e-9
    assert rate.take(now_s + wait_s / 2) > 0.0
    assert rate.take(now_s + wait_s) == 0.0


def test_headers_say_what_is_left() -> None:
    rate = Rate(3)
    assert rate.lines(0.0) == (
        'ratelimit-policy: "requests";q=3;w=1\r\nratelimit: "requests";r=3;t=0\r\n'
    )
    for left in (2, 1, 0):
        rate.take(0.0)
        assert f'"requests";r={left};t=1' in rate.lines(0.0)
    assert rate.remaining(1.0) == (3, 0)


def test_less_than_one_a_second_is_counted_over_a_longer_window() -> None:
    assert Rate(0.1).policy == '"requests";q=1;w=10'
    assert Rate(0.4).policy == '"requests";q=1;w=3'
