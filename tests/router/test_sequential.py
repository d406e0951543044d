"""Confidence sequences hold at every sample size at once.

`GEARSHIFT_TEST_SEQUENCES` sets how many sequences are simulated for each rate (100).
"""

import math
import os
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.sequential import Count, difference, rate
from tests.faults.table import drilled

RUNS = int(os.environ.get("GEARSHIFT_TEST_SEQUENCES", "100"))
LENGTH = 400
ALPHA = 0.1

counts = st.integers(0, 5000).flatmap(
    lambda n: st.integers(0, n).map(lambda hits: Count(hits=hits, n=n))
)


def allowed(runs: int, alpha: float) -> float:
    """More false alarms than this happen once in a million where each has the chance `alpha`."""
    return runs * alpha + 4.75 * math.sqrt(runs * alpha * (1 - alpha))


@pytest.mark.parametrize("p", [0.002, 0.05, 0.5, 0.97])
def test_whoever_looks_after_every_observation_is_misled_no_more_than_promised(p: float) -> None:
    hits = (np.random.default_rng(7).random((RUNS, LENGTH)) < p).cumsum(axis=1)
    bounds: dict[tuple[int, int], bool] = {}

    def misses(k: int, n: int) -> bool:
        if (k, n) not in bounds:
            found = rate(Count(hits=k, n=n), ALPHA)
            bounds[k, n] = not found.low <= p <= found.high
        return bounds[k, n]

    alarms = sum(any(misses(int(k), n) for n, k in enumerate(run, start=1)) for run in hits)
    assert alarms <= allowed(RUNS, ALPHA)
    counts = {"sequences": RUNS, "looks": RUNS * LENGTH, "alarms": alarms, "allowed": ALPHA * RUNS}
    drilled("R3", f"a rate of {p:g} is looked at after every observation", counts)


def test_a_fixed_interval_would_mislead_whoever_looks_again_and_again() -> None:
    """So the test above can fail: the Clopper-Pearson interval of the same level fails it."""
    beta = pytest.importorskip("scipy.stats").beta
    p = 0.5
    hits = (np.random.default_rng(7).random((100, LENGTH)) < p).cumsum(axis=1)
    n = np.arange(1, LENGTH + 1)
    low = beta.ppf(ALPHA / 2, hits, n - hits + 1)
    high = beta.ppf(1 - ALPHA / 2, hits + 1, n - hits)
    outside = (np.nan_to_num(low) > p) | (np.nan_to_num(high, nan=1.0) < p)
    assert outside.any(axis=1).sum() > allowed(100, ALPHA)


def test_two_arms_that_are_equal_are_seldom_told_apart() -> None:
    rng, known = np.random.default_rng(11), lru_cache(maxsize=None)(difference)
    alarms = 0
    for _ in range(RUNS):
        one, other = Count(), Count()
        for arm, hit in zip(rng.random(LENGTH) < 0.3, rng.random(LENGTH) < 0.1, strict=True):
            if arm:
                one = one.plus(bool(hit))
            else:
                other = other.plus(bool(hit))
            if one.n % 10 == 0:
                found = known(one, other, ALPHA)
                if not found.low <= 0.0 <= found.high:
                    alarms += 1
                    break
    assert alarms <= allowed(RUNS, ALPHA)


@pytest.mark.parametrize(("bad", "good"), [(1.0, 0.0), (0.5, 0.0), (0.3, 0.05)])
def test_a_difference_that_is_there_is_found_soon(bad: float, good: float) -> None:
    rng = np.random.default_rng(3)
    one, other = Count(), Count()
    while difference(one, other, 0.05).low <= 0.0:
        one, other = one.plus(bool(rng.random() < bad)), other.plus(bool(rng.random() < good))
    assert one.n <= {1.0: 8, 0.5: 25, 0.3: 150}[bad]


@given(counts, st.floats(1e-6, 0.5))
def test_the_interval_holds_the_observed_share_and_narrows_with_alpha(
    count: Count, alpha: float
) -> None:
    found, wider = rate(count, alpha), rate(count, alpha / 10)
    assert 0.0 <= wider.low <= found.low <= found.value <= found.high <= wider.high <= 1.0
    if count.n:
        assert found.value == count.hits / count.n


@given(counts, st.floats(1e-6, 0.5))
def test_hits_and_misses_are_alike(count: Count, alpha: float) -> None:
    found = rate(count, alpha)
    mirrored = rate(Count(hits=count.n - count.hits, n=count.n), alpha)
    assert found.low == pytest.approx(1 - mirrored.high, abs=1e-9)
    assert found.high == pytest.approx(1 - mirrored.low, abs=1e-9)


@given(counts.filter(lambda count: count.n >= 10), st.floats(0.001, 0.5))
def test_the_interval_is_wider_than_one_for_a_single_look(count: Count, alpha: float) -> None:
    """Jeffreys' interval, about as narrow as one look allows."""
    beta = pytest.importorskip("scipy.stats").beta
    found = rate(count, alpha)
    middle = beta.ppf([alpha, 1 - alpha], count.hits + 0.5, count.n - count.hits + 0.5)
    assert found.low <= middle[0] + 1e-9 or count.hits == 0
    assert found.high >= middle[1] - 1e-9 or count.hits == count.n


@given(counts, counts)
def test_the_difference_turns_around_with_its_arms(one: Count, other: Count) -> None:
    found, turned = difference(one, other, 0.05), difference(other, one, 0.05)
    assert found.low == pytest.approx(-turned.high) and found.high == pytest.approx(-turned.low)
    assert found.low <= found.value <= found.high
