"""The command: what to run, and what comes out."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.routing import baselines, cells, profiles, traces, windows
from benchmarks.routing.cells import Cell
from variants.errors import Invalid


def parser() -> argparse.ArgumentParser:
    """Every option, with what it is when absent."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.routing", description="Our router beside every published one."
    )
    add = found.add_argument
    add("--trace", type=Path, nargs="+", default=[], metavar="FILE")
    add("--profiles", type=Path, nargs="+", default=[], metavar="FILE")
    add("--column", help="the trace's column of times (guessed)")
    add("--rho", type=float, nargs="+", default=[0.5, 0.8, 1.0, 1.5, 2.0, 3.0])
    add("--workers", type=int, nargs="+", default=[1, 2, 4])
    add("--policies", nargs="+", default=list(baselines.names()), metavar="NAME")
    add("--windows", type=int, default=10, help="disjoint test windows of a trace")
    add("--arrivals", type=int, default=500, help="requests in a window, at most")
    add("--json", action="store_true")
    return found


def main() -> None:
    """Run what was asked for."""
    options = parser().parse_args()
    try:
        rows = run(options)
    except (Invalid, LookupError) as error:
        sys.exit(f"error: {error}")
    print(json.dumps({"cells": rows}, indent=1) if options.json else text(rows))


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each cell and policy."""
    ladders = profiles.load(options.profiles)
    cut = [
        windows.of_trace(
            traces.read(path, column=options.column),
            most=options.windows,
            arrivals=options.arrivals,
        )
        for path in options.trace
    ]
    rows = []
    for found in cut:
        for ladder in ladders:
            for workers in options.workers:
                for rho in options.rho:
                    cell = Cell(windows=found, ladder=ladder, rho=rho, workers=workers)
                    print(f"{found.name} {ladder.name} W={workers} ρ={rho}", file=sys.stderr)
                    rows += _rows(cell, cells.run(cell, options.policies))
    return rows


def _rows(cell: Cell, results: Sequence[cells.Result]) -> list[dict[str, Any]]:
    return [
        {
            "trace": cell.windows.name,
            "rho": cell.rho,
            "workers": cell.workers,
            "profiles": cell.ladder.name,
            "policy": result.policy,
            **{
                name: fmean(getattr(scores, name) for scores in result.windows)
                for name in result.windows[0].__dataclass_fields__
            },
            "tunables": dict(result.tunables),
        }
        for result in results
    ]


def text(rows: Sequence[dict[str, Any]]) -> str:
    """Effective accuracy by cell and policy."""
    lines = []
    for row in rows:
        lines.append(
            f"{row['trace']:24} {row['profiles']:20} W={row['workers']} ρ={row['rho']:<4} "
            f"{row['policy']:18} {row['effective_accuracy']:.4f} {row['attainment']:.4f} "
            f"{row['decision_us_p50']:7.1f} µs"
        )
    return "\n".join(lines)
