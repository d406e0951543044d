"""A cell of the proof: one trace at one load on one fleet and ladder, all policies side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.routing import baselines, mix
from benchmarks.routing.baselines import Setting
from benchmarks.routing.ladder import Ladder
from benchmarks.routing.metrics import Scores
from benchmarks.routing.play import Rules, play
from benchmarks.routing.windows import Windows, rescaled_us
from router.simulate import Arrival


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What is held equal for all policies. `rho` is offered load ÷ capacity (see `Ladder`)."""

    windows: Windows
    ladder: Ladder
    rho: float
    workers: int
    rules: Rules = field(default_factory=Rules)

    def arrivals(self, times: NDArray[np.float64], seed: int) -> list[Arrival]:
        """A window's requests at this cell's load."""
        rate_per_s = self.rho * self.workers * self.ladder.capacity_per_s(self.rules.max_batch)
        return mix.arrivals(self.ladder, rescaled_us(times, rate_per_s), seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A policy in a cell: its scores in each window reported on, and how it was tuned."""

    policy: str
    tunables: Mapping[str, Any]
    windows: tuple[Scores, ...]


def run(cell: Cell, names: Sequence[str]) -> list[Result]:
    """Tune each policy on the training window, then play every later one."""
    training = cell.arrivals(cell.windows.training, seed=0)
    tests = [cell.arrivals(times, seed) for seed, times in enumerate(cell.windows.tests, start=1)]
    setting = Setting(
        ladder=cell.ladder,
        workers=cell.workers,
        max_batch=cell.rules.max_batch,
        deadlines_s=mix.deadlines_s(cell.ladder),
        training=training,
    )
    results = []
    for name in names:
        baseline = baselines.find(name)
        grid = baseline.grid(setting)
        hindsight = getattr(baseline, "HINDSIGHT", False)
        if len(grid) > 1 and not hindsight:
            grid = [_best(name, grid, setting, training, seed=0, rules=cell.rules)[0]]
        found = tuple(
            _best(name, grid, setting, arrivals, seed=seed, rules=cell.rules)
            for seed, arrivals in enumerate(tests, start=1)
        )
        results.append(
            Result(
                policy=name,
                tunables={} if hindsight else grid[0],
                windows=tuple(scores for _, scores in found),
            )
        )
    return results


def _best(
    name: str,
    grid: Sequence[Mapping[str, Any]],
    setting: Setting,
    arrivals: Sequence[Arrival],
    *,
    seed: int,
    rules: Rules,
) -> tuple[Mapping[str, Any], Scores]:
    """The tunables that do best on these arrivals, the first of equals, and their scores."""
    played = [
        (tunables, play((name, tunables), setting, arrivals, seed=seed, rules=rules))
        for tunables in grid
    ]
    return max(played, key=lambda each: each[1].effective_accuracy)
