"""The whole proof: which cells there are, all of them run, and what follows from their rows."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from benchmarks.routing import cells, profiles, windows
from benchmarks.routing.ablations import ablations
from benchmarks.routing.baselines import OURS
from benchmarks.routing.cells import Cell
from benchmarks.routing.ladder import Ladder
from benchmarks.routing.play import Rules
from benchmarks.routing.processes import PROCESSES
from benchmarks.routing.statistics import difference
from benchmarks.routing.windows import Windows

Row = dict[str, Any]
PARTS = ("trace", "synthetic", "transfer", "drift", "ablation")
DRIFTS = (0.8, 1.2, 2.0)
FEW_RHO = (1.0, 2.0)
"""Loads of the parts beside the traces."""

HINDSIGHT = frozenset({"single_hindsight"})
"""Baselines that nobody could run: tuned on the very windows that are reported on."""

BEHIND_POINTS = 0.2
REGRET = 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is to be run. `seeds` counts the runs of a synthetic process.

    `long` has windows in which a policy can learn what its host really takes, for the parts where
    it must.
    """

    traces: Sequence[Windows]
    ladders: Sequence[Ladder]
    rhos: Sequence[float]
    workers: Sequence[int]
    policies: Sequence[str]
    long: Sequence[Windows] = ()
    parts: Sequence[str] = PARTS
    seeds: int = 20
    arrivals: int = 300
    rules: Rules = field(default_factory=Rules)
    bounded: bool = True


def cells_of(plan: Plan) -> list[Cell]:
    """Every cell of the plan. The parts beside the traces take the middle fleet and two loads."""
    synthetic = [
        windows.of_process(name, seeds=plan.seeds, arrivals=plan.arrivals) for name in PROCESSES
    ]
    whole = _Product(plan, plan.rhos, plan.workers)
    few = _Product(
        plan,
        [rho for rho in plan.rhos if rho in FEW_RHO] or plan.rhos,
        [sorted(plan.workers)[len(plan.workers) // 2]],
    )
    burst = [each for each in synthetic if each.bursty]
    beside = (list(plan.traces) or burst)[:1]
    learning = (list(plan.long) or beside)[:1]
    drifting = few.cells("drift", learning, plan.ladders[:1])
    parts = {
        "trace": lambda: whole.cells("trace", plan.traces, plan.ladders),
        "synthetic": lambda: few.cells("synthetic", synthetic, plan.ladders),
        "transfer": lambda: [
            _transferred(cell, believed)
            for believed, real in profiles.pairs(plan.ladders)
            for cell in few.cells("transfer", learning, [real])
        ],
        "drift": lambda: [_drifted(cell, drift) for drift in DRIFTS for cell in drifting],
        "ablation": lambda: [
            part
            for cell in few.cells("ablation", learning, plan.ladders[:1])
            for part in ablations(cell)
        ],
    }
    return [cell for name in PARTS if name in plan.parts for cell in parts[name]()]


def _transferred(cell: Cell, believed: Ladder) -> Cell:
    """The cell where policies start from another host's profile, and may correct it."""
    return replace(
        cell,
        believed=cell.ladder.believing(believed),
        profiles=f"{believed.name} → {cell.ladder.name}",
        rules=replace(cell.rules, correction=True),
    )


def _drifted(cell: Cell, drift: float) -> Cell:
    """The cell where runs take longer or shorter from the middle on, and policies may correct."""
    return replace(
        cell,
        profiles=f"{cell.ladder.name} ×{drift:g} mid-run",
        rules=replace(cell.rules, correction=True, drift=drift),
        bounded=False,
    )


class _Product:
    """Cells of every trace and ladder at some loads and fleets."""

    def __init__(self, plan: Plan, rhos: Sequence[float], workers: Sequence[int]) -> None:
        self._plan, self._rhos, self._workers = plan, rhos, workers

    def cells(self, kind: str, traces: Iterable[Windows], ladders: Sequence[Ladder]) -> list[Cell]:
        return [
            Cell(
                kind=kind,
                windows=trace,
                ladder=ladder,
                rho=rho,
                workers=workers,
                policies=self._plan.policies,
                rules=self._plan.rules,
                bounded=self._plan.bounded,
            )
            for trace in traces
            for ladder in ladders
            for workers in self._workers
            for rho in self._rhos
        ]


def run(todo: Sequence[Cell], jobs: int) -> list[Row]:
    """Every cell's rows, in order. Progress goes to standard error."""
    if jobs <= 1:
        return [row for rows in _share(todo) for row in rows]
    shares = [todo[index::jobs] for index in range(jobs)]
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        done = list(pool.map(_share_list, shares))
    ordered = [done[index % jobs][index // jobs] for index in range(len(todo))]
    return [row for rows in ordered for row in rows]


def _share_list(todo: Sequence[Cell]) -> list[list[Row]]:
    return list(_share(todo))


def _share(todo: Sequence[Cell]) -> Iterator[list[Row]]:
    began = time.monotonic()
    for number, cell in enumerate(todo, start=1):
        rows = [result.row() for result in cells.run(cell)]
        spent_s = time.monotonic() - began
        left_s = spent_s / number * (len(todo) - number)
        where = f"{cell.windows.name}, {cell.profiles or cell.ladder.name}{cell.label}"
        print(
            f"{number}/{len(todo)} {cell.kind}: {where}, {cell.workers} workers, "
            f"load {cell.rho:g}; {spent_s:.0f} s spent, about {left_s:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
        yield rows


def compared(rows: Sequence[Row]) -> list[Row]:
    """Ours beside each baseline in each cell: paired difference, interval and verdict."""
    found = []
    for ours, theirs in _cells_with_ours(rows):
        for row in theirs:
            gap = difference(ours["windows"], row["windows"])
            found.append(
                {
                    **{name: row[name] for name in ("kind", *KEY, "bursty", "policy")},
                    "ours": ours["effective_accuracy"],
                    "theirs": row["effective_accuracy"],
                    "difference": gap.mean,
                    "low": gap.low,
                    "high": gap.high,
                    "verdict": gap.verdict,
                }
            )
    return found


KEY = ("trace", "profiles", "workers", "rho")


def _cells_with_ours(rows: Sequence[Row]) -> Iterator[tuple[Row, list[Row]]]:
    """Each cell that ours ran in, beside others."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["kind"] != "ablation":
            groups.setdefault((row["kind"], *(row[name] for name in KEY)), []).append(row)
    for group in groups.values():
        ours = [row for row in group if row["policy"] == OURS]
        others = [row for row in group if row["policy"] != OURS]
        if ours and others:
            yield ours[0], others


def summary(rows: Sequence[Row], comparisons: Sequence[Row]) -> Row:
    """The targets: what was asked for, what was found, and where it was missed."""
    aimed = [each for each in comparisons if each["rho"] >= 1 and each["bursty"]]
    cell_best = [
        (ours, max(others, key=lambda row: row["effective_accuracy"]))
        for ours, others in _cells_with_ours(rows)
    ]
    behind = [
        {**{name: ours[name] for name in KEY}, "policy": best["policy"], "points": points}
        for ours, best in cell_best
        if (points := 100 * (best["effective_accuracy"] - ours["effective_accuracy"]))
        > BEHIND_POINTS
    ]
    mine = [row for row in rows if row["policy"] == OURS and row["kind"] != "ablation"]
    regrets = [row["regret"] / row["bound"] for row in mine if row["bound"]]
    return {
        "verdicts": _verdicts(comparisons),
        "policies": _policies(comparisons),
        "bursty_overload": {
            "comparisons": len(aimed),
            **_verdicts(aimed),
            "without_hindsight": _verdicts([e for e in aimed if e["policy"] not in HINDSIGHT]),
            "not_won": [
                {name: each[name] for name in (*KEY, "policy", "difference", "low", "high")}
                for each in aimed
                if each["verdict"] != "win"
            ],
        },
        "behind_best_baseline": {
            "cells": len(cell_best),
            "behind_by_more_than_points": BEHIND_POINTS,
            "where": behind,
        },
        "regret_to_bound": {
            "mean_ratio": fmean(regrets) if regrets else None,
            "target_ratio": REGRET,
        },
        "floor_violations": sum(row["floor_violations"] for row in rows),
        "cost_violations": sum(row["cost_violations"] for row in rows),
        "decision_us_p50": fmean(row["decision_us_p50"] for row in mine) if mine else None,
    }


def _verdicts(comparisons: Sequence[Row]) -> Mapping[str, int]:
    verdicts = [each["verdict"] for each in comparisons]
    return {
        "wins": verdicts.count("win"),
        "ties": verdicts.count("tie"),
        "losses": verdicts.count("loss"),
    }


def _policies(comparisons: Sequence[Row]) -> Mapping[str, Row]:
    """Each baseline over all cells, the nearest to ours first."""
    by_policy: dict[str, list[Row]] = {}
    for each in comparisons:
        by_policy.setdefault(each["policy"], []).append(each)
    told = {
        name: {"difference": fmean(row["difference"] for row in found), **_verdicts(found)}
        for name, found in by_policy.items()
    }
    return dict(sorted(told.items(), key=lambda item: item[1]["difference"]))
