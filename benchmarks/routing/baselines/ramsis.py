"""RAMSIS: a table of decisions, solved offline as a semi-Markov decision process.

Mendoza et al., "Model Selection for Latency-Critical Inference Serving", EuroSys 2024. For one
worker: state = (queue length, slack of the earliest), action = (variant, how many to serve), reward
= accuracy × served where the latency is within the slack, arrivals Poisson at the worker's share of
the rate. Solved by value iteration for a range of rates and looked up by the measured one.

What the paper leaves open, and is taken so here: the slack of those who stay behind follows from
the mean gap in which the queue has grown; the future is discounted with a horizon of 20 deadlines.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.routing.baselines import Setting
from benchmarks.routing.baselines.gears import accurate_first, serve
from benchmarks.routing.baselines.load import Paced
from benchmarks.routing.ladder import Ladder, value
from router.fleet import Queued
from router.view import Choice, View

QUEUE = 24
SLACKS = 20
HORIZON = 20.0
LEVELS = (0.25, 0.5, 0.8, 1.2, 1.8, 2.7, 4.0, 6.0)
"""Rates that are solved, as a share of the most accurate variant's capacity."""


class Action(NamedTuple):
    """Serve this many on this variant: p95 in seconds and the accuracy that it pays."""

    variant: str
    served: int
    latency_s: float
    accuracy: float


def grid(setting: Setting) -> Sequence[Mapping[str, Any]]:
    """Which class's deadline the table is for, and the interval of the rate in units."""
    return tuple({"objective": index, "units": u} for index in (0, 1, 2) for u in (10, 50))


class Ramsis:
    """The policy: its state is the measured rate."""

    def __init__(self, setting: Setting, objective: int, units: float) -> None:
        self._setting = setting
        self._deadline_s = setting.deadlines_s[objective]
        self._table = Paced(setting, units=units, plan=self._look_up)

    def arrived(self, now_s: float, queued: Queued) -> None:
        """Count it."""
        self._table.arrived()

    def choose(self, view: View) -> Choice:
        """The table's action for the queue and the head's slack."""
        actions, best = self._table.at(view.now_s)
        n = min(math.ceil(len(view.queue) / self._setting.workers), QUEUE)
        slack_s = view.queue[0].deadline_s - view.now_s - view.overhead_s
        level = min(SLACKS - 1, max(0, int(slack_s / self._deadline_s * SLACKS)))
        action = actions[best[n - 1, level]]
        return serve(view, action.variant, action.served)

    def _look_up(self, per_s: float) -> "Table":
        share = per_s / self._setting.workers
        capacity = self._setting.ladder.capacity_per_s(self._setting.max_batch)
        level = min(LEVELS, key=lambda level: abs(math.log(level * capacity / max(share, 1e-9))))
        return solve(
            self._setting.ladder, self._setting.max_batch, self._deadline_s, level * capacity
        )


Table = tuple[tuple[Action, ...], NDArray[np.int64]]
"""Actions, and the index of the best one by (queue length − 1, slack level)."""


@lru_cache(maxsize=256)
def solve(ladder: Ladder, max_batch: int, deadline_s: float, per_s: float) -> Table:
    """The best action in each state at this rate of one worker."""
    actions = tuple(
        Action(each.variant, size, each.service_s(size, 95), value(each))
        for each in accurate_first(ladder)
        for size in sorted({1, *each.service})
        if size <= min(max_batch, QUEUE)
    )
    reward, step, slack, discount = _model(actions, deadline_s, per_s)
    values = np.zeros((QUEUE, SLACKS))
    m = len(actions)
    rows = np.arange(m)[:, None, None], np.arange(QUEUE)[None, :, None]
    for _ in range(400):
        onward = step @ values  # [action, queue, slack of the next head]
        gathered = onward[rows[0], rows[1], slack]
        q = reward + discount[:, None, None] * gathered
        newer = q.max(axis=0)
        if np.abs(newer - values).max() < 1e-4:
            break
        values = newer
    return actions, q.argmax(axis=0)


def _model(
    actions: Sequence[Action], deadline_s: float, per_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Reward [action, n, slack], next n [action, n, n'], next slack level, discount [action]."""
    n = np.arange(1, QUEUE + 1)
    slack_s = (np.arange(SLACKS) + 0.5) / SLACKS * deadline_s
    m = len(actions)
    reward = np.full((m, QUEUE, SLACKS), -np.inf)
    step = np.zeros((m, QUEUE, QUEUE))
    slack = np.zeros((m, QUEUE, SLACKS), dtype=np.int64)
    discount = np.empty(m)
    for index, action in enumerate(actions):
        latency_s, served = action.latency_s, action.served
        mean = per_s * latency_s
        counts = np.arange(QUEUE + 1)
        log_p = counts * math.log(mean) - mean - np.array([math.lgamma(k + 1) for k in counts])
        arrive = np.exp(log_p)
        pays = np.where(latency_s <= slack_s, action.accuracy * served, 0.0)
        reward[index, served - 1 :] = pays
        for left in range(QUEUE - served + 1):
            row = step[index, left + served - 1]
            for count in range(QUEUE + 1):
                row[min(QUEUE, max(1, left + count)) - 1] += arrive[count]
            row[-1] += max(0.0, 1 - arrive.sum())
        gap_s = (deadline_s - slack_s)[None, :] / n[:, None]
        behind_s = slack_s[None, :] + served * gap_s - latency_s
        fresh_s = deadline_s - latency_s * mean / (mean + 1)
        next_s = np.where((n > served)[:, None], behind_s, fresh_s)
        slack[index] = np.clip(next_s / deadline_s * SLACKS, 0, SLACKS - 1).astype(np.int64)
        discount[index] = math.exp(-latency_s / (HORIZON * deadline_s))
    return reward, step, slack, discount


def build(setting: Setting, *, objective: int, units: float) -> Ramsis:
    """A fresh policy."""
    return Ramsis(setting, objective, units)
