"""When a variant breaks its promise, and when that is its own doing."""

import numpy as np
import pytest

from router.promise import SLACK, WINDOW, Kept, standing, total
from router.sequential import Count


def late(hits: int, n: int) -> Count:
    return Count(hits=hits, n=n)


def test_a_run_is_late_beyond_the_slack() -> None:
    kept = Kept(float)
    for run_s in (0.9, 1.0, SLACK, SLACK + 0.01, 5.0):
        kept.ran(1, run_s)
    kept.ran(4, 3.0 * SLACK)
    assert kept.late.count == late(2, 6)


def test_what_was_long_ago_is_forgotten() -> None:
    kept = Kept(lambda _: 1.0)
    for _ in range(2 * WINDOW):
        kept.ran(1, 9.0)
    assert kept.late.count == late(WINDOW, WINDOW)
    for _ in range(2 * WINDOW):
        kept.ran(1, 1.0)
    assert kept.late.count == late(0, WINDOW)


def test_a_slow_variant_among_quick_ones_is_to_blame() -> None:
    found = standing(late(80, 100), late(5, 1000))
    assert found.broken and found.own_doing and found.runs == 100


def test_a_slow_host_is_not_the_variants_doing() -> None:
    found = standing(late(80, 100), late(800, 1000))
    assert found.broken and not found.own_doing


def test_alone_a_variant_is_flagged_and_never_blamed() -> None:
    found = standing(late(100, 100), total(()))
    assert found.broken and not found.own_doing


@pytest.mark.parametrize(
    ("agreed", "promised", "broken"),
    [(900, 0.95, True), (900, 0.89, False), (900, None, False), (0, 0.95, False)],
)
def test_agreement_below_what_the_build_measured_is_its_own_doing(
    agreed: int, promised: float | None, broken: bool
) -> None:
    seen = Count(hits=agreed, n=1000) if agreed else Count()
    found = standing(late(0, 100), late(0, 100), seen, promised)
    assert found.broken is found.own_doing is broken
    assert (found.agreed is None) is (agreed == 0)


@pytest.mark.parametrize("seed", range(20))
def test_who_keeps_the_promise_is_not_flagged_by_looking_often(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kept, others = Kept(lambda _: 1.0), Kept(lambda _: 1.0)
    for run in range(1500):
        kept.ran(1, 2.0 if rng.random() < 0.05 else 1.0)
        others.ran(1, 2.0 if rng.random() < 0.05 else 1.0)
        if run % 10 == 0:
            assert not standing(kept.late.count, others.late.count).broken
