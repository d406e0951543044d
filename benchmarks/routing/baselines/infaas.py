"""INFaaS: the least costly variant that fits a query, over variants that the autoscaler runs.

Romero et al., "INFaaS: Automated Model-less Inference Serving", ATC 2021. A query takes the
cheapest variant that keeps its accuracy and whose latency, fitted linearly in the batch, is within
its deadline less 5 %. At intervals the autoscaler compares need = rate ÷ throughput with the fleet
and moves at once to a variant that can sustain it, back only after several votes in a row. Cost is
dollars, or, as in the comparison of Proteus, the accuracy lost.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from benchmarks.routing.baselines import Setting
from benchmarks.routing.baselines.gears import accurate_first, left_s, most_per_s, nearest
from benchmarks.routing.baselines.load import Paced
from benchmarks.routing.ladder import value
from router.batching import fill
from router.fleet import Queued
from router.view import Choice, View

SLACK = 0.05


def grid(setting: Setting) -> Sequence[Mapping[str, Any]]:
    """What costs, votes to step back up, and the interval in units."""
    accuracy = [{"cost": "accuracy", "votes": v, "units": u} for v in (2, 10) for u in (5, 30)]
    return (*accuracy, {"cost": "dollars", "votes": 10, "units": 30})


class Infaas:
    """The policy: its state is the measured rate, the running variant and the votes."""

    def __init__(
        self, setting: Setting, cost: Literal["accuracy", "dollars"], votes: int, units: float
    ) -> None:
        self._cost, self._votes_needed, self._votes = cost, votes, 0
        self._front = accurate_first(setting.ladder)
        middle_s = setting.deadlines_s[len(setting.deadlines_s) // 2]
        self._sustained = [
            setting.workers * most_per_s(each, middle_s, setting.max_batch) for each in self._front
        ]
        self._fit_s = {
            each.variant: _line(each.service, setting.max_batch)
            for each in setting.ladder.candidates
        }
        self._running = len(self._front) - 1
        self._plan = Paced(setting, units=units, plan=self._scale)

    def arrived(self, now_s: float, queued: Queued) -> None:
        """Count it."""
        self._plan.arrived()

    def choose(self, view: View) -> Choice:
        """The cheapest that fits the head, no slower than what runs."""
        running = self._front[self._plan.at(view.now_s)]
        head, options = view.queue[0], view.head
        most_s = (1 - SLACK) * (head.deadline_s - head.arrival_s)
        ceiling_s = running.service_s(head.rows, 50)
        fitting = [
            name
            for name in options.tail_s
            if self._fit_s[name](head.rows) <= most_s
            and view.candidates[name].service_s(head.rows, 50) <= ceiling_s
            and options.tail_s[name] <= left_s(view)
        ]
        wanted = min(fitting, key=lambda name: self._price(view, name), default=running.variant)
        variant = nearest(view, wanted)
        return Choice(variant=variant, requests=fill(view, variant))

    def _price(self, view: View, name: str) -> tuple[float, str]:
        candidate = view.candidates[name]
        if self._cost == "accuracy":
            return (-value(candidate), name)
        return (candidate.cost_usd_per_million or 0.0, name)

    def _scale(self, rate_per_s: float) -> int:
        """Index of the running variant after this interval."""
        need = (1 + SLACK) * rate_per_s
        able = [index for index, most in enumerate(self._sustained) if most >= need]
        target = able[0] if able else len(self._front) - 1
        if target > self._running:
            self._running, self._votes = target, 0
        elif target < self._running:
            self._votes += 1
            if self._votes >= self._votes_needed:
                self._running, self._votes = target, 0
        else:
            self._votes = 0
        return self._running


def _line(service: Mapping[int, Any], max_batch: int) -> np.poly1d:
    sizes = [size for size in service if size <= max_batch] or [min(service)]
    if len(sizes) < 2:
        return np.poly1d([service[sizes[0]].p95])
    return np.poly1d(np.polyfit(sizes, [service[size].p95 for size in sizes], 1))


def build(
    setting: Setting, *, cost: Literal["accuracy", "dollars"], votes: int, units: float
) -> Infaas:
    """A fresh policy."""
    return Infaas(setting, cost, votes, units)
