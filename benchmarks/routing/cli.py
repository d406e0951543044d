"""The command: what to run, and what comes out."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.routing import baselines, profiles, proof, quick, report, traces, windows
from benchmarks.routing.play import Rules
from benchmarks.routing.proof import PARTS, Plan
from benchmarks.routing.traces import Trace
from variants.errors import Invalid

HERE = Path(__file__).parent
EXAMPLES = (HERE / "fashion.csv", HERE / "steps.csv")
"""Fashion images, four variants measured on one thread of a small server, where batches pay; and
five variants that double in time from step to step, as published families do on CPUs."""


def parser() -> argparse.ArgumentParser:
    """Every option, with what it is when absent."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.routing",
        description="Our router beside every published one, on recorded and synthetic arrivals.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = found.add_argument
    add("--trace", type=Path, nargs="+", default=[], metavar="FILE", help="arrivals (traces.py)")
    add(
        "--profiles",
        type=Path,
        nargs="+",
        default=list(EXAMPLES),
        metavar="FILE",
        help="ladders of variants (profiles.py): CSV files or data folders",
    )
    add("--column", metavar="NAME", help="the traces' column of times (guessed if not given)")
    add("--rho", type=float, nargs="+", default=[0.5, 0.8, 1.0, 1.5, 2.0, 3.0], metavar="LOAD")
    add("--workers", type=int, nargs="+", default=[1, 2, 4], metavar="N")
    add("--policies", nargs="+", default=list(baselines.names()), metavar="NAME")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    add("--windows", type=int, default=10, metavar="N", help="disjoint test windows of a trace")
    add("--arrivals", type=int, default=300, metavar="N", help="requests in a window, at most")
    add("--seeds", type=int, default=20, metavar="N", help="runs of each synthetic process")
    add("--max-batch", type=int, default=8, metavar="ROWS", help="rows in one run, at most")
    add("--jobs", type=int, default=1, metavar="N", help="processes")
    add("--out", type=Path, metavar="FOLDER", help="write table and plots here")
    add("--keep", metavar="NAME", help="keep the result for the documentation: routing, routing-…")
    add("--quick", action="store_true", help="a minute, synthetic; fails where ours falls behind")
    add("--json", action="store_true", help="print JSON instead of tables")
    return found


def main() -> None:
    """Run what was asked for; exit with a sentence where that cannot be done."""
    options = parser().parse_args()
    try:
        _check(options)
        plan = quick.plan(profiles.load(EXAMPLES)) if options.quick else _plan(options)
    except (Invalid, LookupError) as error:
        sys.exit(f"error: {error}")
    result = _result(proof.run(proof.cells_of(plan), options.jobs))
    if options.out is not None:
        report.write(result, options.out)
    if options.keep:
        tables.keep(options.keep, report.digest(result))
    print(json.dumps(result, indent=1) if options.json else report.table(report.digest(result)))
    if options.quick and (failures := quick.failures(result)):
        sys.exit("\n".join(["failed:", *failures]))


def _result(rows: list[dict[str, Any]]) -> dict[str, Any]:
    comparisons = proof.compared(rows)
    return {
        "cells": rows,
        "comparisons": comparisons,
        "summary": proof.summary(rows, comparisons),
    }


def _plan(options: argparse.Namespace) -> Plan:
    for name in options.policies:
        baselines.find(name)
    found = _traces(options)
    most, arrivals = options.windows, options.arrivals
    return Plan(
        traces=[windows.of_trace(trace, most=most, arrivals=arrivals) for trace in found],
        long=[
            windows.of_trace(t, most=max(5, most // 2), arrivals=4 * arrivals) for t in found[:1]
        ],
        ladders=profiles.load(options.profiles),
        rhos=options.rho,
        workers=options.workers,
        policies=options.policies,
        parts=options.parts,
        seeds=options.seeds,
        arrivals=options.arrivals,
        rules=Rules(max_batch=options.max_batch),
    )


def _traces(options: argparse.Namespace) -> list[Trace]:
    """Files of counts are placed inside their periods in two ways, the others stand as they are."""
    found = []
    for path in options.trace:
        found.append(traces.read(path, column=options.column))
        if found[-1].spread:
            found.append(traces.read(path, column=options.column, cv2=4.0))
    return found


def _check(options: argparse.Namespace) -> None:
    for name in ("rho", "workers"):
        for number in getattr(options, name):
            if not 0 < number < 1000:
                raise Invalid(f"--{name}: {number} is not allowed; it must be above 0, below 1000")
    for name in ("windows", "seeds", "max_batch", "jobs"):
        if getattr(options, name) < 1:
            raise Invalid(f"--{name.replace('_', '-')}: must be at least 1")
    if options.arrivals < windows.SHORTEST:
        raise Invalid(f"--arrivals: must be at least {windows.SHORTEST}")
