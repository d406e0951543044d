"""A cell of the proof: one trace at one load on one fleet and ladder, all policies side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.routing import baselines, bound, mix
from benchmarks.routing.baselines import Setting
from benchmarks.routing.ladder import Ladder
from benchmarks.routing.metrics import Scores
from benchmarks.routing.play import Rules, play
from benchmarks.routing.windows import Windows, rescaled_us
from router.simulate import Arrival


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What is held equal for all policies.

    `ladder` is what runs take and what requests are made from, `believed` what policies decide
    with where that is something else. `rho` is offered load ÷ capacity (see `Ladder`). `kind` says
    which part of the proof this is, and `bounded` whether to ask for the upper bound.
    """

    kind: str
    windows: Windows
    ladder: Ladder
    rho: float
    workers: int
    policies: Sequence[str]
    believed: Ladder | None = None
    profiles: str = ""
    rules: Rules = field(default_factory=Rules)
    label: str = ""
    bounded: bool = True

    def arrivals(self, times: NDArray[np.float64], seed: int) -> list[Arrival]:
        """A window's requests at this cell's load."""
        rate_per_s = self.rho * self.workers * self.ladder.capacity_per_s(self.rules.max_batch)
        return mix.arrivals(self.ladder, rescaled_us(times, rate_per_s), seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A policy in a cell: its scores in each draw of each window, and how it was tuned.

    `bounds` is the upper bound of each window; empty where it was not asked for.
    """

    cell: Cell
    policy: str
    tunables: Mapping[str, Any]
    windows: tuple[tuple[Scores, ...], ...]
    bounds: tuple[float, ...]

    @property
    def effective(self) -> tuple[float, ...]:
        """Effective accuracy in each window, the mean of its draws."""
        return tuple(_effective(draws) for draws in self.windows)

    def row(self) -> dict[str, Any]:
        """The result in JSON: means over the windows (sums of violations), the extremes, regret."""
        cell = self.cell
        scores = [asdict(each) for draws in self.windows for each in draws]
        means = {name: fmean(each[name] for each in scores) for name in scores[0]}
        for name in ("floor_violations", "cost_violations"):
            means[name] = sum(each[name] for each in scores)
        most = fmean(self.bounds) if self.bounds else None
        return {
            "trace": cell.windows.name,
            "rho": cell.rho,
            "workers": cell.workers,
            "profiles": cell.profiles or cell.ladder.name,
            "policy": self.policy + cell.label,
            **means,
            "worst_second": min(each["worst_second"] for each in scores),
            "kind": cell.kind,
            "bursty": cell.windows.bursty,
            "bound": most,
            "regret": None if most is None else most - means["effective_accuracy"],
            "windows": list(self.effective),
            "tunables": dict(self.tunables),
        }


def run(cell: Cell) -> list[Result]:
    """Tune each policy on the training window, then play every later one."""
    training, *tests = _plays(cell)
    setting = Setting(
        ladder=cell.believed or cell.ladder,
        workers=cell.workers,
        max_batch=cell.rules.max_batch,
        deadlines_s=mix.deadlines_s(cell.ladder),
        training=training[0].arrivals,
    )
    bounds = tuple(_bound(cell, plays) for plays in tests) if cell.bounded else ()
    results = []
    for name in cell.policies:
        baseline = baselines.find(name)
        grid = baseline.grid(setting)
        hindsight = getattr(baseline, "HINDSIGHT", False)
        if len(grid) > 1 and not hindsight:
            grid = [_best(name, grid, setting, training, rules=cell.rules)[0]]
        found = [_best(name, grid, setting, plays, rules=cell.rules) for plays in tests]
        results.append(
            Result(
                cell=cell,
                policy=name,
                tunables={} if hindsight else grid[0],
                windows=tuple(scores for _, scores in found),
                bounds=bounds,
            )
        )
    return results


class _Play(NamedTuple):
    """One draw of a window: its requests, and the seed of its luck."""

    seed: int
    arrivals: Sequence[Arrival]


def _plays(cell: Cell) -> list[list[_Play]]:
    """The draws of the training window, then of each later one."""
    every = (cell.windows.training, *cell.windows.tests)
    return [
        [
            _Play(seed, cell.arrivals(times, seed))
            for seed in range(number, cell.windows.draws * len(every), len(every))
        ]
        for number, times in enumerate(every)
    ]


def _effective(draws: Sequence[Scores]) -> float:
    return fmean(scores.effective_accuracy for scores in draws)


def _bound(cell: Cell, plays: Sequence[_Play]) -> float:
    return fmean(
        bound.effective_accuracy(
            cell.ladder,
            each.arrivals,
            workers=cell.workers,
            max_batch=cell.rules.max_batch,
            believed=cell.believed,
        )
        for each in plays
    )


def _best(
    name: str,
    grid: Sequence[Mapping[str, Any]],
    setting: Setting,
    plays: Sequence[_Play],
    *,
    rules: Rules,
) -> tuple[Mapping[str, Any], tuple[Scores, ...]]:
    """The tunables that do best in these draws, the first of equals, and their scores."""
    played = [
        (
            tunables,
            tuple(
                play((name, tunables), setting, arrivals, seed=seed, rules=rules)
                for seed, arrivals in plays
            ),
        )
        for tunables in grid
    ]
    return max(played, key=lambda each: _effective(each[1]))
