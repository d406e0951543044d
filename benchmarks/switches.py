"""What callers notice while variants are switched on and off under load.

    python -m benchmarks.switches [--switches 1000] [--rate 300] [--per-second 1 5 0] [--json]

Windows with and without switching take turns under one open load; in the former a variant is
deactivated and activated, so often a second or, with 0, without pause. The 99th percentiles of all
windows of a kind are compared by their medians; the ratio's interval is a paired percentile
bootstrap's over the pairs of windows, by SciPy. That each answer comes from exactly one variant is
held by `tests/end_to_end/test_switching.py` (`GEARSHIFT_TEST_SWITCHES=1000`).
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
from scipy.stats import bootstrap

from benchmarks import load, tables
from tests import ladder as ladders
from tests import world
from tests.ladder import MODEL
from variants.profile import host_fingerprint

WINDOW_S = 3.0
FEWEST = 20
"""Pairs of windows at each pace, however soon the switches are made."""
CONNECTIONS = 16
SWITCHED = "mid"


def measure(switches: int, rate_per_s: float, switches_per_s: float) -> dict[str, Any]:
    """Windows in turns until so many switches were made, and there are `FEWEST` pairs of them."""
    body = json.dumps({"model": MODEL, "inputs": [1.0, 2.0, 3.0, 4.0]}).encode()
    windows: dict[str, list[load.Load]] = {"steady": [], "switching": []}
    took_s: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        generator = load.Generator.compile(Path(name))
        ladder = ladders.build(Path(name))
        with (
            world.gateway(ladder.root, ladder.key, env=ladders.ENV) as gateway,
            gateway.client() as admin,
        ):
            request = load.post("/infer", body, {"authorization": f"Bearer {gateway.key}"})
            while len(took_s) < switches or len(windows["steady"]) < FEWEST:
                for kind, found in windows.items():
                    beside = _switching(admin, switches_per_s, took_s)
                    with beside if kind == "switching" else nullcontext():
                        load_seen = generator.run(
                            gateway.port,
                            request,
                            connections=CONNECTIONS,
                            seconds=WINDOW_S,
                            rate_per_s=rate_per_s,
                        )
                    found.append(load_seen)
                print(f"{len(took_s)} switches", end="\r", file=sys.stderr)
    every = [window for found in windows.values() for window in found]
    found_ms = {kind: [window.p99_ms for window in found] for kind, found in windows.items()}
    p99_ms = {kind: median(found) for kind, found in found_ms.items()}
    return {
        "load_average": os.getloadavg(),
        "rate_per_s": rate_per_s,
        "switches_per_s": switches_per_s,
        "switches": len(took_s),
        "switch_p50_ms": 1e3 * median(took_s),
        "switch_max_ms": 1e3 * max(took_s),
        "answered": sum(window.answered for window in every),
        "refused": sum(window.refused for window in every),
        "broken": sum(window.broken for window in every),
        "windows": len(windows["steady"]),
        "p50_ms": {kind: median(w.p50_ms for w in found) for kind, found in windows.items()},
        "p99_ms": p99_ms,
        "p99_ratio": p99_ms["switching"] / p99_ms["steady"],
        "p99_ratio_95": _interval(found_ms["switching"], found_ms["steady"]),
    }


def _interval(switching_ms: list[float], steady_ms: list[float]) -> list[float]:
    """The 95 % interval of the ratio of the medians."""
    found = bootstrap(
        (switching_ms, steady_ms),
        lambda one, other, axis: np.median(one, axis=axis) / np.median(other, axis=axis),
        paired=True,
        method="percentile",
        rng=0,
    )
    return [float(found.confidence_interval.low), float(found.confidence_interval.high)]


@contextmanager
def _switching(admin: httpx.Client, switches_per_s: float, took_s: list[float]) -> Iterator[None]:
    """Switch off and on on a thread; whole pairs of switches are waited for."""
    stop = threading.Event()
    thread = threading.Thread(target=_switch, args=(admin, switches_per_s, stop, took_s))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _switch(
    admin: httpx.Client, switches_per_s: float, stop: threading.Event, took_s: list[float]
) -> None:
    """Off and on again until told to stop; always ends switched on."""
    pause_s = 1 / switches_per_s if switches_per_s else 0.0
    while not stop.is_set():
        for action in ("deactivate", "activate"):
            begun = time.monotonic()
            reply = admin.post(f"/v1/models/{MODEL}/variants/{SWITCHED}/{action}")
            reply.raise_for_status()
            took_s.append(time.monotonic() - begun)
            stop.wait(pause_s - took_s[-1])


def table(result: dict[str, Any]) -> str:
    """The result in Markdown, a row for each pace."""
    head = [
        "switches a second",
        "switches",
        "requests",
        "refused",
        "broken",
        "a switch, ms (most)",
        "p99 steady, ms",
        "p99 switching, ms",
        "ratio (95 %)",
    ]
    return tables.markdown(head, [_row(found) for found in result["paces"]])


def _row(found: dict[str, Any]) -> list[str]:
    pace, (low, high) = found["switches_per_s"], found["p99_ratio_95"]
    return [
        f"{pace:g}" if pace else "without pause",
        f"{found['switches']:,}",
        f"{found['answered']:,}",
        str(found["refused"]),
        str(found["broken"]),
        f"{found['switch_p50_ms']:.1f} ({found['switch_max_ms']:.0f})",
        f"{found['p99_ms']['steady']:.2f}",
        f"{found['p99_ms']['switching']:.2f}",
        f"{found['p99_ratio']:.2f} ({low:.2f} to {high:.2f})",
    ]


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description="What callers notice of switches.")
    parser.add_argument("--switches", type=int, default=1000, help="at each pace")
    parser.add_argument("--rate", type=float, default=300.0, help="requests a second")
    parser.add_argument(
        "--per-second",
        type=float,
        nargs="+",
        default=[1.0, 5.0, 0.0],
        help="paces; 0: without pause",
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    paces = [
        measure(arguments.switches, arguments.rate, per_second)
        for per_second in arguments.per_second
    ]
    result = {"host": host_fingerprint(), "paces": paces}
    tables.keep("switches", result)
    print(json.dumps(result, indent=1) if arguments.json else table(result))


if __name__ == "__main__":
    main()
