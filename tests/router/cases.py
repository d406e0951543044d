"""Candidates, queues and constraints for the router's tests: by hand, and drawn at random."""

import math
from collections.abc import Mapping

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from router.candidate import Candidate
from router.constraints import BOUNDS, Constraints
from router.dispatch import Dispatch, dispatch
from router.fleet import Queued, WorkerView
from router.outlook import Outlook
from router.policies import Policy
from router.waiting import Waiting
from router.weights import Weights
from variants.profile import Accuracy, Quantiles

MS = 0.001


def flat(seconds: float) -> Quantiles:
    """A service time without spread."""
    return Quantiles(p50=seconds, p95=seconds, p99=seconds)


def linear(seconds: float) -> dict[int, Quantiles]:
    """A service time that grows with the batch, so that batching never pays."""
    return {batch: flat(seconds * batch) for batch in (1, 2, 4, 8)}


def candidate(
    variant: str,
    *,
    accuracy: float | None = 0.9,
    cost: float | None = 10.0,
    ms: float | None = 10.0,
    service: Mapping[int, Quantiles] | None = None,
    **others: object,
) -> Candidate:
    measured = linear(ms * MS) if ms is not None else {}
    return Candidate(
        variant=variant,
        accuracy=None if accuracy is None else Accuracy.of(round(accuracy * 10_000), 10_000),
        cost_usd_per_million=cost,
        service=measured if service is None else service,
        **others,
    )


def ladder() -> list[Candidate]:
    """Three gears: each step down is faster, cheaper and less accurate."""
    return [
        candidate("fp32", accuracy=0.92, cost=40.0, ms=40),
        candidate("int8", accuracy=0.91, cost=10.0, ms=10),
        candidate("tiny", accuracy=0.85, cost=2.0, ms=2),
    ]


def worker(*loaded: str, id: int = 0, free_at_s: float = 0.0) -> WorkerView:
    return WorkerView(id=id, free_at_s=free_at_s, loaded=frozenset(loaded))


def queued(id: int, *eligible: str, **fields: object) -> Queued:
    defaults: dict[str, object] = {
        "arrival_s": 0.0,
        "deadline_s": math.inf,
        "drop_late": True,
        "urgency": 3,
        "rows": 1,
        "objective": "accuracy",
        "percentile": 95,
    }
    return Queued(id=id, eligible=eligible, **(defaults | fields))


def run(
    policy: Policy,
    queue: list[Queued],
    candidates: list[Candidate],
    worker: WorkerView | None = None,
    **fields: object,
) -> Dispatch:
    """Dispatch on one worker that has everything loaded and is free at 0, unless told."""
    defaults: dict[str, object] = {"others": (), "now_s": 0.0, "overhead_s": 0.0, "max_batch": 8}
    by_id = {each.variant: each for each in candidates}
    outlook = Outlook(by_id, frozenset(by_id) if worker is None else worker.loaded)
    return dispatch(policy, queue=Waiting(queue), outlook=outlook, **(defaults | fields))


examples = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Enough to find what is wrong, few enough for a slow machine."""

NAMES = ("a", "b", "c", "d", "e")

seconds = st.floats(min_value=1e-4, max_value=0.5, allow_nan=False)
ratios = st.floats(min_value=0.0, max_value=1.0, allow_nan=False)
dollars = st.floats(min_value=0.0, max_value=100.0, allow_nan=False)
points = st.floats(min_value=0.0, max_value=50.0, allow_nan=False)


@st.composite
def quantiles(draw: st.DrawFn) -> Quantiles:
    return Quantiles(
        **dict(zip(("p50", "p95", "p99"), sorted(draw(seconds) for _ in range(3)), strict=True))
    )


services = st.dictionaries(st.sampled_from((1, 2, 4, 8)), quantiles(), max_size=4)


@st.composite
def candidates(draw: st.DrawFn, *, min_size: int = 0) -> list[Candidate]:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=min_size))
    return [
        Candidate(
            variant=name,
            accuracy=draw(
                st.none() | st.integers(0, 50).map(lambda correct: Accuracy.of(correct, 50))
            ),
            cost_usd_per_million=draw(st.none() | dollars),
            service=draw(services),
            load_s=draw(seconds),
            resident=draw(st.integers(0, 4)) > 0,
            blocked=draw(st.sampled_from((None, None, None, "quarantined"))),
        )
        for name in names
    ]


constraints = st.builds(
    Constraints,
    max_latency_s=st.none() | seconds,
    latency_percentile=st.sampled_from((50, 90, 95, 99)),
    max_cost_usd_per_million=st.none() | dollars,
    min_accuracy=st.none() | ratios,
    accuracy_point=st.booleans(),
    max_accuracy_drop_points=st.none() | points,
    soft=st.frozensets(st.sampled_from(BOUNDS), max_size=2),
    objective=st.sampled_from(
        (None, "accuracy", "cost", "latency", Weights(accuracy=0.6, cost=0.3, latency=0.1))
    ),
    variants=st.none() | st.lists(st.sampled_from(NAMES), unique=True, min_size=1).map(tuple),
    lenient=st.sampled_from((False, False, True)),
    urgency=st.integers(0, 7),
)


@st.composite
def queues(draw: st.DrawFn, *, max_size: int = 8) -> list[Queued]:
    ids = draw(st.lists(st.integers(0, 30), unique=True, max_size=max_size))
    return [
        Queued(
            id=id,
            arrival_s=draw(st.floats(-1, 0)),
            deadline_s=draw(st.just(math.inf) | st.floats(-0.1, 2)),
            drop_late=draw(st.booleans()),
            urgency=draw(st.integers(2, 4)),
            rows=draw(st.sampled_from((1, 1, 1, 2, 3))),
            eligible=tuple(
                draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1).map(sorted))
            ),
            objective=draw(st.sampled_from(("accuracy", "cost", "latency"))),
            percentile=draw(st.sampled_from((50, 95, 99))),
        )
        for id in ids
    ]


@st.composite
def fleets(draw: st.DrawFn) -> list[WorkerView]:
    count = draw(st.integers(1, 3))
    return [
        WorkerView(
            id=id,
            free_at_s=draw(st.floats(-0.1, 0.3)),
            loaded=draw(st.frozensets(st.sampled_from(NAMES))),
        )
        for id in range(count)
    ]
