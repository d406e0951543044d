"""Clipper: one deployed variant, batches grown and cut by additive increase, multiplicative
decrease.

Crankshaw et al., "Clipper: A Low-Latency Online Prediction Serving System", NSDI 2017, section
4.3: the batch limit grows by one while batches keep the latency objective, and falls by a tenth
when one does not. Its bandits need feedback on answers, which serving has not; as in later
comparisons it is pinned to a variant, here to the one that did best on the training window.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.routing.baselines import Setting
from benchmarks.routing.baselines.gears import nearest, serve, spread
from router.view import Choice, View


def grid(setting: Setting) -> Sequence[Mapping[str, Any]]:
    """Which variant, and which class's deadline is the latency objective."""
    return tuple(
        {"gear": gear, "objective": index} for gear in spread(setting.ladder, 3) for index in (0, 1)
    )


class Clipper:
    """The policy: its state is a batch limit for each variant."""

    def __init__(self, setting: Setting, gear: str, objective: int) -> None:
        self._gear = gear
        self._objective_s = setting.deadlines_s[objective]
        self._max_batch = setting.max_batch
        self._limit: dict[str, float] = {}

    def finished(self, now_s: float, variant: str, rows: int, run_s: float) -> None:
        """Grow or cut the limit of the variant that ran."""
        limit = self._limit.get(variant, 1.0)
        grown = limit + 1 if run_s <= self._objective_s else limit * 0.9
        self._limit[variant] = min(max(grown, 1.0), float(self._max_batch))

    def choose(self, view: View) -> Choice:
        """Up to the limit, in queue order."""
        limit = self._limit.get(nearest(view, self._gear), 1.0)
        return serve(view, self._gear, int(limit))


def build(setting: Setting, *, gear: str, objective: int) -> Clipper:
    """A fresh policy."""
    return Clipper(setting, gear, objective)
