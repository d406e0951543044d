"""Nexus: a batch from the rate, and early drop by a sliding window that keeps batches large.

Shen et al., "Nexus: A GPU Cluster Engine for Accelerating DNN-Based Video Analysis", SOSP 2019.
The largest batch b with (b−1)/λ + l(b) within the deadline; the dispatcher slides a window of b
over the queue and gives up heads that cannot finish with a whole one (they stay queued here until
they are dropped as hopeless). Extended by the obvious choice of variant: the most accurate whose
batches sustain the rate.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.routing.baselines import Setting
from benchmarks.routing.baselines.gears import accurate_first, batch, left_s, nearest, per_s, serve
from benchmarks.routing.baselines.load import Paced
from router.fleet import Queued
from router.view import Choice, View

HEADROOM = 1.05


def grid(setting: Setting) -> Sequence[Mapping[str, Any]]:
    """Which class's deadline is the objective, and the interval between epochs in units."""
    return tuple({"objective": index, "units": u} for index in (0, 1, 2) for u in (10, 50))


class Nexus:
    """The policy: its state is the measured rate."""

    def __init__(self, setting: Setting, objective: int, units: float) -> None:
        self._setting = setting
        self._limit_s = setting.deadlines_s[objective]
        self._plan = Paced(setting, units=units, plan=self._epoch)

    def arrived(self, now_s: float, queued: Queued) -> None:
        """Count it."""
        self._plan.arrived()

    def choose(self, view: View) -> Choice:
        """The first window of the queue that a whole batch can still serve."""
        gear, size = self._plan.at(view.now_s)
        for start in range(len(view.queue)):
            variant = nearest(view, gear, start)
            rows = min(size, len(view.queue) - start)
            if view.candidates[variant].service_s(rows, 95) <= left_s(view, start):
                return Choice(variant=variant, requests=batch(view, variant, size, start=start))
        return serve(view, gear, 1)

    def _epoch(self, rate_per_s: float) -> tuple[str, int]:
        """The variant and the batch for this rate."""
        share = max(rate_per_s / self._setting.workers, 1e-9)
        front = accurate_first(self._setting.ladder)
        for each in front:
            fitting = [
                size
                for size, quantiles in each.service.items()
                if size <= self._setting.max_batch
                and (size - 1) / share + quantiles.p95 <= self._limit_s
            ]
            sustained = [size for size in fitting if per_s(each, size) >= HEADROOM * share]
            if sustained:
                return each.variant, max(sustained)
        fastest = front[-1]
        sizes = [size for size in fastest.service if size <= self._setting.max_batch] or [1]
        return fastest.variant, max(sizes, key=lambda size: per_s(fastest, size))


def build(setting: Setting, *, objective: int, units: float) -> Nexus:
    """A fresh policy."""
    return Nexus(setting, objective, units)
