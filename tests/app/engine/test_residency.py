"""The plan follows what is asked for, at a cost that no caller can drive up."""

import time

from app.engine.residency import Offer, Residency
from app.engine.slot import Slot
from app.metrics import Metrics
from router.residency import Item
from router.weights import Weights
from tests.router.cases import candidate

NAMES = ("best", "fast")


def residency(*, workers: int = 1, budget_bytes: int = 10) -> Residency:
    """Over workers that were never started, so nothing is open yet."""
    offer = Offer(
        items={name: Item(model="m", size_bytes=10, load_s=0.1) for name in NAMES},
        candidates={
            "best": candidate("best", accuracy=0.95, ms=40),
            "fast": candidate("fast", accuracy=0.80, ms=10),
        },
        loadings={},
        waiting=[],
    )
    slots = [Slot(n, dict, lambda: None, lambda *_: None) for n in range(workers)]
    return Residency(budget_bytes=budget_bytes, slots=slots, offer=lambda: offer, metrics=Metrics())


def test_what_is_asked_for_is_planned_for() -> None:
    for objective, wanted in (("accuracy", "best"), ("latency", "fast")):
        kept = residency()
        for second in range(20):
            for _ in range(50):
                kept.asked("m", NAMES, objective)  # type: ignore[arg-type]
            kept.replan(float(second))
        assert kept.target == (frozenset({wanted}),)
        assert kept.spare() == frozenset(NAMES) - {wanted}


def test_a_variant_that_alone_can_serve_is_planned_for_a_while() -> None:
    kept = residency()
    for second in range(30):
        for _ in range(50):
            kept.asked("m", NAMES, "accuracy")
        if second == 5:
            kept.require("fast", float(second))
        kept.replan(float(second))
        assert ("fast" in kept.target[0]) == (5 <= second < 15)


def test_callers_with_ever_other_weights_do_not_slow_the_plan() -> None:
    kept = residency(workers=4, budget_bytes=40)
    kept.replan(0.0)
    for number in range(20_000):
        kept.asked("m", NAMES, Weights(accuracy=1.0, cost=1.0 + number).over(()))
    begun = time.perf_counter()
    for second in range(1, 4):
        kept.replan(float(second))
    assert time.perf_counter() - begun < 0.3
