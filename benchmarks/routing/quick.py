"""A proof of under a minute for every change: synthetic arrivals and two promises."""

from collections.abc import Sequence
from typing import Any

from benchmarks.routing.baselines import OURS
from benchmarks.routing.ladder import Ladder
from benchmarks.routing.proof import BEHIND_POINTS, Plan

GREEDY = "greedy_deadline"


def plan(ladders: Sequence[Ladder]) -> Plan:
    """Every process, five seeds each, two loads, two workers."""
    return Plan(
        traces=(),
        ladders=ladders,
        rhos=(1.0, 2.0),
        workers=(2,),
        policies=(OURS, GREEDY, "slackfit", "static_accurate", "static_fastest"),
        parts=("synthetic",),
        seeds=5,
        arrivals=250,
        bounded=False,
    )


def failures(result: dict[str, Any]) -> list[str]:
    """What was promised and is not so: no bound is ever broken, and ours is not behind greedy.

    Behind means by more than `BEHIND_POINTS` and beyond the interval in one cell, or at all in the
    mean over all cells.
    """
    found = [
        f"{row['policy']} broke {row[name]} {name.split('_')[0]} bounds in {_where(row)}"
        for row in result["cells"]
        for name in ("floor_violations", "cost_violations")
        if row[name]
    ]
    found += [
        f"ours is behind {GREEDY} by {-100 * each['difference']:.2f} points in {_where(each)}"
        for each in result["comparisons"]
        if each["policy"] == GREEDY
        and each["verdict"] == "loss"
        and -100 * each["difference"] > BEHIND_POINTS
    ]
    mean = result["summary"]["policies"][GREEDY]["difference"]
    if mean < 0:
        found.append(f"ours is behind {GREEDY} by {-100 * mean:.2f} points over all cells")
    return found


def _where(row: dict[str, Any]) -> str:
    return f"{row['trace']}, {row['workers']} workers, load {row['rho']:g}"
