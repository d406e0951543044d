import math

import pytest

from router.candidate import NotMeasured
from router.estimate import finish_s, work_ahead_s
from tests.router.cases import MS, candidate, ladder, queued, worker

LADDER = {each.variant: each for each in ladder()}


def ahead(queue, workers, *, deadline_s=math.inf, urgency=3, variant="int8"):
    return work_ahead_s(
        queue, workers, LADDER, now_s=0.0, deadline_s=deadline_s, urgency=urgency, variant=variant
    )


def test_service_time_comes_from_the_smallest_measured_batch_that_holds_the_rows():
    assert candidate("x", ms=10).service_s(3, 95) == pytest.approx(40 * MS)


def test_service_time_grows_in_proportion_beyond_the_largest_measured_batch():
    assert candidate("x", ms=10).service_s(12, 95) == pytest.approx(120 * MS)


def test_service_time_of_an_unmeasured_variant_is_an_error_that_names_it():
    with pytest.raises(NotMeasured, match="x has no measured service time"):
        candidate("x", ms=None).service_s(1, 95)


def test_an_idle_worker_starts_at_once():
    assert ahead([], [worker("int8", free_at_s=-5.0)]) == 0


def test_a_busy_worker_is_waited_for():
    assert ahead([], [worker("int8", free_at_s=0.5), worker("tiny", id=1)]) == 0.5


def test_the_wait_is_infinite_where_no_worker_has_the_variant():
    assert ahead([], [worker("tiny")]) == math.inf


def test_queued_work_counts_at_its_fastest_eligible_variant_shared_by_the_workers():
    queue = [queued(1, "fp32", "int8"), queued(2, "fp32")]
    workers = [worker("int8"), worker("int8", id=1)]
    assert ahead(queue, workers) == pytest.approx((10 + 40) * MS / 2)


def test_only_work_that_goes_first_counts():
    queue = [
        queued(1, "int8", deadline_s=1.0),
        queued(2, "int8", deadline_s=3.0),
        queued(3, "int8", urgency=0),
        queued(4, "int8", urgency=7, deadline_s=0.1),
    ]
    assert ahead(queue, [worker("int8")], deadline_s=2.0) == pytest.approx(20 * MS)


def test_finish_adds_overhead_wait_and_the_quantile_of_service():
    found = finish_s(LADDER["int8"], rows=2, percentile=95, wait_s=0.1, overhead_s=0.001)
    assert found == pytest.approx(0.121)
