"""Does the gateway's memory grow? Many requests, and the slope of its resident memory.

    python -m benchmarks.soak [--requests 1000000] [--json]

Requests of four kinds in turns: JSON, JSON within a budget, raw tensors, and bodies that are
refused. After each turn the resident memory of the HTTP process is read. The slope is that of the
least squares line through what was read after the first fifth, with a 95 % interval.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import load, models, tables
from benchmarks.peers.contestants import ours
from tests import world
from variants.data_folder import open_data_folder
from variants.profile import host_fingerprint

TURN_S = 1.0
CONNECTIONS = 16
WARM_UP_RATIO = 0.2
NORMAL_95 = 1.96


def measure(requests: int) -> dict[str, Any]:
    """Memory by requests answered, and its slope."""
    model = models.tiny()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generator = load.Generator.compile(folder)
        with open_data_folder(folder / "data") as data:
            world.publish(data, model.spec, None, {"fp32": model.save(folder)})
            key = world.make_key(data, "infer")
        with world.gateway(folder / "data", key) as gateway:
            points = _run(generator, gateway, key, requests)
    rest = points[int(len(points) * WARM_UP_RATIO) :]
    slope, half = slope_of([point[0] for point in rest], [point[1] for point in rest])
    return {
        "host": host_fingerprint(),
        "requests": points[-1][0],
        "first_rss_bytes": points[0][1],
        "last_rss_bytes": points[-1][1],
        "most_rss_bytes": max(rss for _, rss in points),
        "slope_bytes_per_request": slope,
        "slope_95": [slope - half, slope + half],
        "points": points[:: max(1, len(points) // 100)],
    }


def _run(
    generator: load.Generator, gateway: world.Gateway, key: str, requests: int
) -> list[tuple[int, int]]:
    row = models.tiny().row()
    ask = ours(key)
    good = ask("tiny", row, False)
    budget = good.replace(
        b"\r\nhost", b"\r\ninfer-max-latency-ms: 5000\r\ninfer-objective: cost\r\nhost", 1
    )
    bad = load.post(
        "/infer", b'{"model": "tiny", "inputs": [1]}', {"authorization": f"Bearer {key}"}
    )
    kinds = [good, budget, ask("tiny", row, True), bad]
    done, points = 0, []
    while done < requests:
        turn = generator.run(
            gateway.port,
            kinds[len(points) % len(kinds)],
            connections=CONNECTIONS,
            seconds=TURN_S,
            warm_up_s=0.0,
        )
        if turn.broken:
            raise SystemExit(f"broken connections: {turn}")
        done += turn.answered + turn.refused
        points.append((done, load.rss_bytes(gateway.process.pid)))
        print(f"{done:,} requests, {points[-1][1] / 2**20:.1f} MiB", end="\r", file=sys.stderr)
    return points


def slope_of(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Slope of the least squares line, and half of its 95 % interval.

    Readings of memory hang together; so the interval is widened for their first-order
    autocorrelation r: as if there were n (1 − r) ÷ (1 + r) of them.
    """
    fit = statistics.linear_regression(x, y)
    rest = [b - fit.intercept - fit.slope * a for a, b in zip(x, y, strict=True)]
    mean = statistics.mean(x)
    spread = sum((a - mean) ** 2 for a in x)
    squares = sum(e * e for e in rest)
    if not squares:
        return fit.slope, 0.0
    tied = sum(a * b for a, b in pairwise(rest)) / squares
    worth = max(3.0, len(x) * (1 - tied) / (1 + tied))
    error = (squares / (worth - 2) / spread * len(x) / worth) ** 0.5 if worth > 2 else float("inf")
    return fit.slope, NORMAL_95 * error


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    low, high = (bound * 1e6 / 2**20 for bound in result["slope_95"])
    head = ["requests", "first MiB", "last MiB", "most MiB", "MiB a million requests (95 %)"]
    mib = [f"{result[f'{which}_rss_bytes'] / 2**20:.1f}" for which in ("first", "last", "most")]
    slope = result["slope_bytes_per_request"] * 1e6 / 2**20
    row = [f"{result['requests']:,}", *mib, f"{slope:+.2f} ({low:+.2f} to {high:+.2f})"]
    return tables.markdown(head, [row])


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description="Does the gateway's memory grow?")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments.requests)
    result["load_average"] = os.getloadavg()
    tables.keep("soak", result)
    print(json.dumps(result, indent=1) if arguments.json else table(result))


if __name__ == "__main__":
    main()
