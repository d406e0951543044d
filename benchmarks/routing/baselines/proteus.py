"""Proteus: a mixed-integer programme gives each worker its variant for the demand of now.

Ahmad et al., "Proteus: A High-Throughput Inference-Serving System with Accuracy Scaling", ASPLOS
2024. At intervals, with exponentially averaged demand s: maximise Σ accuracy × throughput over
binary x[worker, variant] and served y, with Σ_v x ≤ 1, y ≤ peak·x and Σ y = β·s; β starts at 1.05
and falls by 0.05 until feasible. The peak is that of the largest batch within half the objective.
Batches are cut so that the head keeps its deadline. Solved by HiGHS. As in its own simulator,
changing a worker's variant costs nothing here, since all are resident.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from benchmarks.routing.baselines import Setting
from benchmarks.routing.baselines.gears import accurate_first, largest_batch, per_s, serve
from benchmarks.routing.baselines.load import Paced
from benchmarks.routing.ladder import value
from router.fleet import Queued
from router.view import Choice, View

STEP = 0.05
SHARE = 0.6
"""Weight of the newest interval; the paper's code uses pandas' com of 1.6, about 0.4 to 0.6."""


def grid(setting: Setting) -> Sequence[Mapping[str, Any]]:
    """Which class's deadline is the objective, and the interval in units."""
    return tuple({"objective": index, "units": u} for index in (0, 1, 2) for u in (20, 100))


class Proteus:
    """The policy: its state is the demand and the plan made for it."""

    def __init__(self, setting: Setting, objective: int, units: float) -> None:
        self._workers = setting.workers
        self._front = accurate_first(setting.ladder)
        half_s = setting.deadlines_s[objective] / 2
        self._sizes = [largest_batch(each, half_s, setting.max_batch) or 1 for each in self._front]
        self._peaks = np.array(
            [per_s(each, size) for each, size in zip(self._front, self._sizes, strict=True)]
        )
        self._accuracies = np.array([value(each) for each in self._front])
        self._plan = Paced(setting, units=units, plan=self._assign, share=SHARE)

    def arrived(self, now_s: float, queued: Queued) -> None:
        """Count it."""
        self._plan.arrived()

    def choose(self, view: View) -> Choice:
        """The head on this worker's variant, in batches that keep its deadline."""
        busy = {other.id for other in view.others}
        here = next(id for id in range(self._workers) if id not in busy)
        index = self._plan.at(view.now_s)[here]
        return serve(view, self._front[index].variant, self._sizes[index])

    def _assign(self, demand_per_s: float) -> list[int]:
        """The variant of each worker, as an index into the front."""
        most = self._workers * float(self._peaks.max())
        beta = 1.05
        while beta > STEP and beta * demand_per_s > most:
            beta -= STEP
        served = min(beta * demand_per_s, most)
        found = assignment(self._accuracies, self._peaks, self._workers, served * (1 - 1e-9))
        return found if found is not None else [len(self._front) - 1] * self._workers


def assignment(
    accuracies: np.ndarray, peaks: np.ndarray, workers: int, served_per_s: float
) -> list[int] | None:
    """The programme for `served_per_s`; None where it has no solution."""
    variants = len(peaks)
    n = workers * variants
    gain = np.concatenate([np.zeros(n), -np.tile(accuracies, workers)])
    one = np.zeros((workers, 2 * n))
    for worker in range(workers):
        one[worker, worker * variants : (worker + 1) * variants] = 1
    within = np.hstack([-np.diag(np.tile(peaks, workers)), np.eye(n)])
    total = np.concatenate([np.zeros(n), np.ones(n)])[None, :]
    solution = milp(
        gain,
        integrality=np.concatenate([np.ones(n), np.zeros(n)]),
        bounds=Bounds(0, np.concatenate([np.ones(n), np.full(n, np.inf)])),
        constraints=[
            LinearConstraint(one, 1, 1),
            LinearConstraint(within, -np.inf, 0),
            LinearConstraint(total, served_per_s, served_per_s),
        ],
    )
    if solution.x is None:
        return None
    chosen = solution.x[:n].reshape(workers, variants)
    return [int(index) for index in chosen.argmax(axis=1)]


def build(setting: Setting, *, objective: int, units: float) -> Proteus:
    """A fresh policy."""
    return Proteus(setting, objective, units)
