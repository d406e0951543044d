"""Estimates follow what workers really take."""

import pytest

from app.engine.correction import BOUNDS, FADE_S, Correction
from router.candidate import Candidate
from variants.profile import Quantiles

PRIOR = Candidate(
    variant="a",
    accuracy=None,
    cost_usd_per_million=1.0,
    service={1: Quantiles(p50=0.01, p95=0.02, p99=0.03), 8: Quantiles(p50=0.05, p95=0.1, p99=0.2)},
)
NOW = 1000.0


def test_the_prior_holds_until_something_is_measured() -> None:
    assert Correction(PRIOR).candidate(NOW) is PRIOR


def test_a_measurement_is_compared_with_the_predicted_median_of_its_rows() -> None:
    correction = Correction(PRIOR)
    assert correction.observe(1, 0.02, NOW) == pytest.approx(2)
    assert correction.observe(5, 0.025, NOW) == pytest.approx(0.5)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_all_quantiles_move_to_what_is_measured(factor: float) -> None:
    correction = Correction(PRIOR)
    for _ in range(200):
        correction.observe(1, 0.01 * factor, NOW)
    service = correction.candidate(NOW).service
    assert service[1].p50 == pytest.approx(0.01 * factor, rel=0.12)
    assert service[8].p99 == pytest.approx(0.2 * factor, rel=0.12)
    assert correction.candidate(NOW).cost_usd_per_million == 1.0


def test_one_outlier_moves_little_and_absurd_values_are_bounded() -> None:
    correction = Correction(PRIOR)
    correction.observe(1, 0.02, NOW)
    assert correction.candidate(NOW) is PRIOR
    for _ in range(500):
        correction.observe(1, 60.0, NOW)
    assert correction.candidate(NOW).service[1].p50 <= 0.01 * BOUNDS[1] * 1.001


def test_it_comes_back_when_the_host_is_quick_again() -> None:
    correction = Correction(PRIOR)
    for run_s in (0.05, 0.01):
        for _ in range(300):
            correction.observe(1, run_s, NOW)
    assert correction.candidate(NOW).service[1].p50 == pytest.approx(0.01, rel=0.12)


def test_a_variant_without_a_profile_is_left_alone() -> None:
    bare = Candidate(variant="a", accuracy=None, cost_usd_per_million=None, service={})
    correction = Correction(bare)
    assert correction.observe(1, 0.5, NOW) == 1.0
    assert correction.candidate(NOW) is bare


def test_what_nothing_confirms_fades() -> None:
    correction = Correction(PRIOR)
    for _ in range(500):
        correction.observe(1, 0.08, NOW)
    assert correction.candidate(NOW + FADE_S - 1).service[1].p50 == pytest.approx(0.08, rel=0.12)
    assert correction.candidate(NOW + 2 * FADE_S).service[1].p50 == pytest.approx(0.0275, rel=0.12)
    for seconds in range(20, 120, 5):
        correction.candidate(NOW + seconds)
    assert correction.candidate(NOW + 120).service[1].p50 == pytest.approx(0.01, rel=0.12)
