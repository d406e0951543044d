"""Estimates follow what workers really take."""

import random
import time
from dataclasses import replace

import numpy as np
import pytest

from router.candidate import Candidate
from router.correction import BOUNDS, DRIFT_S, REST_S, Correction, correcting
from router.sketch import Sketch
from variants.profile import Quantiles

PRIOR = Candidate(
    variant="a",
    accuracy=None,
    cost_usd_per_million=1.0,
    service={1: Quantiles(p50=0.01, p95=0.02, p99=0.03), 8: Quantiles(p50=0.05, p95=0.1, p99=0.2)},
)
NOW = 1000.0


def seen(run_s: float, *, times: int = 300, rows: int = 1) -> Correction:
    correction = Correction(PRIOR)
    for _ in range(times):
        correction.observe(rows, run_s, NOW)
    return correction


def test_the_prior_holds_until_something_is_measured() -> None:
    correction = Correction(PRIOR)
    assert correction.candidate(NOW) is PRIOR
    assert correction.ratio == 1.0
    assert not correction.drifted(NOW + 1e6)


def test_a_measurement_is_compared_with_the_predicted_median_of_its_rows() -> None:
    correction = Correction(PRIOR)
    assert correction.observe(1, 0.02, NOW) == pytest.approx(2)
    assert correction.observe(5, 0.025, NOW) == pytest.approx(0.5)


@pytest.mark.parametrize("factor", [0.25, 0.5, 3.0])
def test_every_batch_size_moves_to_what_is_measured_at_one(factor: float) -> None:
    service = seen(0.01 * factor).candidate(NOW).service
    assert service[1].p50 == pytest.approx(0.01 * factor, rel=0.12)
    assert service[8].p50 == pytest.approx(0.05 * factor, rel=0.25)
    assert service[8].p99 / service[8].p50 == pytest.approx(0.2 / 0.05)


def test_batch_sizes_are_told_apart_and_rows_count_for_the_next_larger() -> None:
    correction = Correction(PRIOR)
    for _ in range(300):
        correction.observe(1, 0.01, NOW)
        correction.observe(7, 0.15, NOW)
    service = correction.candidate(NOW).service
    assert service[1].p50 == pytest.approx(0.01, rel=0.15)
    assert service[8].p50 == pytest.approx(0.15, rel=0.15)


def test_the_quantiles_become_those_of_the_runs() -> None:
    drawn = np.random.default_rng(1).lognormal(0, 0.2, 5000) * 0.03
    correction = Correction(PRIOR)
    ratios = []
    for number, run_s in enumerate(drawn):
        correction.observe(1, float(run_s), NOW + number / 100)
        if number > 1000 and number % 50 == 0:
            found = correction.candidate(NOW + number / 100).service[1]
            ratios.append((found.p50, found.p95, found.p99))
    p50, p95, _ = np.median(ratios, axis=0) / np.quantile(drawn, (0.5, 0.95, 0.99))
    assert p50 == pytest.approx(1, rel=0.07)
    # The profile's p95 is twice its median, that of the runs 1.39 times.
    assert 1.0 < p95 < 1.25


def test_one_outlier_moves_little_and_absurd_values_are_bounded() -> None:
    correction = Correction(PRIOR)
    correction.observe(1, 0.02, NOW)
    assert correction.candidate(NOW).service[1].p50 < 0.012
    for _ in range(500):
        correction.observe(1, 60.0, NOW)
    assert correction.candidate(NOW).service[1].p50 <= 0.01 * BOUNDS[1] * 1.001


def test_it_comes_back_when_the_host_is_quick_again() -> None:
    correction = seen(0.05)
    for _ in range(100):
        correction.observe(1, 0.01, NOW)
    assert correction.candidate(NOW).service[1].p50 == pytest.approx(0.01, rel=0.15)


def test_a_slower_host_shows_within_about_as_many_runs_as_are_remembered() -> None:
    correction = seen(0.01)
    for _ in range(64):
        correction.observe(1, 0.02, NOW)
    assert correction.candidate(NOW).service[1].p50 > 0.015


def test_a_variant_without_a_profile_is_left_alone() -> None:
    bare = Candidate(variant="a", accuracy=None, cost_usd_per_million=None, service={})
    correction = Correction(bare)
    assert correction.observe(1, 0.5, NOW) == 1.0
    assert correction.candidate(NOW) is bare


def test_what_nothing_confirms_fades() -> None:
    correction = seen(0.08)
    assert correction.candidate(NOW + REST_S - 1).service[1].p50 == pytest.approx(0.08, rel=0.25)
    assert correction.candidate(NOW + 2 * REST_S).service[1].p50 < 0.04
    for seconds in range(20, 120, 5):
        correction.candidate(NOW + seconds)
    assert correction.candidate(NOW + 120) is PRIOR


def test_after_a_silence_new_runs_count_more_than_old_ones() -> None:
    correction = seen(0.08)
    later = NOW + 60
    for _ in range(8):
        correction.observe(1, 0.01, later)
    assert correction.candidate(later).service[1].p50 == pytest.approx(0.01, rel=0.2)


def test_drift_is_flagged_after_a_while_and_not_for_a_moment() -> None:
    correction = Correction(PRIOR)
    for second in range(int(DRIFT_S) + 10):
        for part in range(10):
            correction.observe(1, 0.02, NOW + second + part / 10)
        if second <= DRIFT_S:
            assert not correction.drifted(NOW + second)
    assert correction.drifted(NOW + second)
    assert correction.ratio == pytest.approx(2, rel=0.2)
    end = NOW + DRIFT_S + 10
    for _ in range(100):
        correction.observe(1, 0.01, end)
    assert not correction.drifted(end + DRIFT_S)


def test_equal_runs_give_equal_candidates() -> None:
    drawn = [random.Random(2).lognormvariate(-4, 0.3) for _ in range(500)]
    first, second = Correction(PRIOR), Correction(PRIOR)
    for run_s in drawn:
        for correction in (first, second):
            correction.observe(1, run_s, NOW)
        assert first.candidate(NOW) == second.candidate(NOW)


def test_observing_takes_microseconds_and_rebuilds_rarely() -> None:
    batches = (1, 2, 4, 8, 16, 32)
    prior = Candidate(
        variant="a",
        accuracy=None,
        cost_usd_per_million=1.0,
        service={b: Quantiles(p50=0.01 * b, p95=0.013 * b, p99=0.015 * b) for b in batches},
    )
    drawn = random.Random(3)
    runs = [(drawn.choice(batches), drawn.lognormvariate(0, 0.15)) for _ in range(20_000)]
    correction, built = Correction(prior), 0
    was, took = correction.candidate(NOW), []
    for number, (rows, ratio) in enumerate(runs):
        now = NOW + number / 1000
        begun = time.perf_counter()
        correction.observe(rows, 0.01 * rows * ratio, now)
        took.append(time.perf_counter() - begun)
        built += (candidate := correction.candidate(now)) is not was
        was = candidate
    assert float(np.mean(took)) < 20e-6  # alone on a core: 4
    assert built < len(runs) / 50


def test_a_sketch_forgets_in_constant_memory_and_keeps_the_tail() -> None:
    sketch = Sketch(memory=64, rest_s=10, half_life_s=5)
    values = np.random.default_rng(4).normal(size=20_000)
    for number, value in enumerate(values):
        sketch.add(float(value), number / 1000)
    assert sketch.count(20.0) == pytest.approx(64, rel=0.05)
    assert sketch.count(20.0 + 15) == pytest.approx(8, rel=0.05)
    last = np.quantile(values[-150:], (0.5, 0.95))
    assert np.allclose(sketch.quantiles((0.5, 0.95)), last, atol=0.35)
    sketch.add(50.0, 80.0)
    assert sketch.quantiles((0.5,))[0] == pytest.approx(50, abs=3)


def slow_and_idle() -> tuple[tuple[Correction, Correction], float]:
    """Two on one host, one after six seconds of runs of 30 ms, one that never ran; and the time."""
    make = correcting()
    slow, idle = make(PRIOR), make(replace(PRIOR, variant="b"))
    for step in range(200):
        slow.observe(1, 0.03, NOW + step * 0.03)
    return (slow, idle), NOW + 6.0


def test_a_variant_out_of_use_says_nothing_of_the_host_and_forgets_nothing() -> None:
    (used, other), now_s = slow_and_idle()
    assert other.candidate(now_s).service[1].p50 > 0.015
    used.rest()
    assert other.candidate(now_s).service[1].p50 == PRIOR.service[1].p50
    assert used.candidate(now_s).service[1].p50 == pytest.approx(0.03, rel=0.2)


def test_a_variant_that_seldom_runs_is_as_slow_as_the_others_show() -> None:
    (busy, idle), now_s = slow_and_idle()
    assert busy.candidate(now_s).service[1].p50 == pytest.approx(0.03, rel=0.2)
    assert idle.candidate(now_s).service[1].p50 == pytest.approx(0.03, rel=0.35)
    alone = Correction(replace(PRIOR, variant="b"))
    assert alone.candidate(now_s) is not idle.candidate(now_s)
    for step in range(400):  # the host is as it was when it was profiled
        busy.observe(1, 0.01, now_s + step * 0.01)
    assert idle.candidate(now_s + 4.0).service[1].p50 == pytest.approx(0.01, rel=0.25)
