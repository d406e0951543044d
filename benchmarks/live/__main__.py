"""The command; see the package for what it does."""

import argparse
import itertools
import json
import platform
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import tables
from benchmarks.live import ladder, play, replay, report, step
from benchmarks.live.ladder import Served
from benchmarks.routing import mix, traces, windows
from benchmarks.routing.ladder import Ladder
from variants.errors import Invalid
from variants.measure import Effort
from variants.profile import host_fingerprint

POLICIES = ("shadow_price", "share_slack", "greedy_deadline", "most_accurate")


def main() -> None:
    """Exits with 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.live", description="The real gateway under recorded arrivals."
    )
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="a folder with a built model")
    add("--model", help="which one, where there are several")
    add("--trace", type=Path, nargs="*", default=[], help="arrivals, as benchmarks.routing takes")
    add("--column", help="the traces' column of times")
    add("--rho", type=float, default=1.5, help="load: arrivals ÷ the best variant's capacity")
    add("--arrivals", type=int, default=1000, help="requests in a series, at most")
    add(
        "--rows",
        type=int,
        default=1,
        help="rows in a request; more make slower work of a quick model",
    )
    add("--repeats", type=int, default=3)
    add("--policies", nargs="+", default=list(POLICIES))
    add("--step", action="store_true", help="the fivefold step in load")
    add("--picture", type=Path, help="write the step's figure here")
    add("--keep", action="store_true", help="keep the result for the documentation")
    add("--json", action="store_true")
    asked = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            served = ladder.renewed(
                asked.data_dir,
                asked.model,
                Path(folder),
                effort=Effort(seconds=0.5, samples=60),
                rows=2000,
                asked_rows=asked.rows,
            )
            _tell(served)
            results = {}
            if asked.trace:
                results["live"] = _policies(asked, served)
            if asked.step:
                scores, answers = step.run(served, rows=asked.rows, seed=1)
                if asked.picture is not None:
                    step.draw(served, answers, asked.picture)
                results["step"] = scores
    except Invalid as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if asked.keep and "live" in results:
        tables.keep("live", results["live"])
    if asked.json:
        print(json.dumps(results))
        return
    if "live" in results:
        print(report.table(results["live"]))
    if "step" in results:
        print(json.dumps(results["step"], indent=1))


def _policies(asked: argparse.Namespace, served: Served) -> dict[str, Any]:
    """Each trace and repeat with every policy in turn, in an order that rotates."""
    rows: list[dict[str, Any]] = []
    orders: list[bool] = []
    turn = itertools.count()
    for path in asked.trace:
        trace = traces.read(path, column=asked.column)
        runs = windows.of_trace(trace, most=asked.repeats, arrivals=asked.arrivals).tests
        for number, times in enumerate(runs, start=1):
            asking = _by_request(served.ladder, asked.rows)
            rate_per_s = asked.rho * play.WORKERS / asking.best.service_s(1, 50)
            at_us = windows.rescaled_us(times, rate_per_s)
            arrivals = [
                replace(each, rows=asked.rows) for each in mix.arrivals(asking, at_us, number)
            ]
            shift = next(turn) % len(asked.policies)
            played = {
                name: play.play(served, name, arrivals, seed=number)
                for name in [*asked.policies[shift:], *asked.policies[:shift]]
            }
            found = {}
            for name in asked.policies:
                live = played[name].scores(served)
                simulated = replay.replayed(
                    served, played[name], list(played.values()), seed=number
                )
                found[name] = {
                    "trace": path.stem,
                    "window": number,
                    "policy": name,
                    "rho": asked.rho,
                    **live,
                    **{f"simulated_{key}": value for key, value in simulated.items()},
                }
                print(json.dumps(found[name]), file=sys.stderr)
            rows += found.values()
            orders.append(_ordered(found, "") == _ordered(found, "simulated_"))
    means = []
    for path, name in itertools.product(asked.trace, asked.policies):
        of = [row for row in rows if row["trace"] == path.stem and row["policy"] == name]
        numbers = [key for key, value in of[0].items() if isinstance(value, float)]
        mean = {key: fmean(row[key] for row in of) for key in numbers}
        violations = sum(row["floor_violations"] for row in of)
        means.append({"trace": path.stem, "policy": name, **mean, "floor_violations": violations})
    gaps = [100 * abs(row["attainment"] - row["simulated_attainment"]) for row in means]
    return {
        "host": host_fingerprint(),
        "python": platform.python_version(),
        "model": served.spec.name,
        "rows": means,
        "windows": rows,
        "largest_gap": max(gaps),
        "same_order": sum(orders),
        "orders": len(orders),
    }


def _by_request(whole: Ladder, rows: int) -> Ladder:
    """The ladder as one who always asks for so many rows sees it."""
    return replace(
        whole,
        candidates=tuple(
            replace(each, service={1: each.service[rows]}) for each in whole.candidates
        ),
    )


def _ordered(found: dict[str, dict[str, Any]], prefix: str) -> list[str]:
    return sorted(found, key=lambda name: -found[name][f"{prefix}effective_accuracy"])


def _tell(served: Served) -> None:
    for each in served.ladder.candidates:
        quantiles = each.service[1]
        print(
            f"{each.variant}: accuracy {each.accuracy.value if each.accuracy else 0:.4f}, "
            f"{1e3 * quantiles.p50:.2f} ms (p95 {1e3 * quantiles.p95:.2f})",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
