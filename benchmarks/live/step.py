"""A fivefold step in load with an accuracy floor: what the gateway does, second by second."""

from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.live.ladder import Served
from benchmarks.live.play import WORKERS, Answered, play
from benchmarks.routing.ladder import value
from router.constraints import Constraints
from router.simulate import Arrival

CALM_S, BUSY_S, AFTER_S = 8.0, 8.0, 8.0
CALM_RHO, FACTOR = 0.5, 5.0
FLOOR = 0.95
DEADLINES = 10.0
"""The deadline, in times of the most accurate variant's p95 alone."""

BIN_S = 0.25


def run(served: Served, *, rows: int, seed: int) -> tuple[dict[str, Any], Sequence[Answered]]:
    """Poisson arrivals at half the best variant's capacity, five times that, and half again."""
    best = served.ladder.best
    calm_per_s = CALM_RHO * WORKERS / best.service_s(rows, 50)
    rng = np.random.default_rng(seed)
    times: list[float] = []
    for start, length, rate in (
        (0.0, CALM_S, calm_per_s),
        (CALM_S, BUSY_S, FACTOR * calm_per_s),
        (CALM_S + BUSY_S, AFTER_S, calm_per_s),
    ):
        times += (start + np.sort(rng.random(rng.poisson(length * rate))) * length).tolist()
    asked = Constraints(
        max_latency_s=DEADLINES * best.service_s(rows, 95),
        min_accuracy=FLOOR * value(best),
        accuracy_point=True,
        objective="accuracy",
    )
    arrivals = [Arrival(at_us=round(at * 1e6), constraints=asked, rows=rows) for at in times]
    played = play(served, "shadow_price", arrivals, seed=seed)
    return {**played.scores(served), **_phases(served, played.answers)}, played.answers


def _phases(served: Served, answers: Sequence[Answered]) -> dict[str, Any]:
    most = value(served.ladder.best)
    best = {each.variant for each in served.ladder.candidates if value(each) == most}
    bounds = {
        "calm": (0.0, CALM_S),
        "busy": (CALM_S, CALM_S + BUSY_S),
        "after": (CALM_S + BUSY_S, CALM_S + BUSY_S + AFTER_S),
    }
    accuracy = {each.variant: value(each) for each in served.ladder.candidates}
    phases: dict[str, Any] = {}
    for name, (start, stop) in bounds.items():
        of = [each for each in answers if start <= each.arrival.at_us / 1e6 < stop]
        kept = [each for each in of if each.in_time and each.variant is not None]
        phases[name] = {
            "requests": len(of),
            "attainment": len(kept) / max(1, len(of)),
            "accuracy": sum(accuracy[e.variant] for e in kept if e.variant) / max(1, len(kept)),
            "on_best": sum(each.variant in best for each in kept) / max(1, len(kept)),
        }
    return {"phases": phases, "back_on_best_s": _back_s(answers, best)}


def _back_s(answers: Sequence[Answered], best: Set[str]) -> float | None:
    """Seconds after the busy time until a whole half second is answered by the best variants."""
    end = CALM_S + BUSY_S
    for start in np.arange(0.0, AFTER_S - 0.5, 0.05).tolist():
        window = [e for e in answers if start <= e.arrival.at_us / 1e6 - end < start + 0.5]
        if window and sum(e.variant in best for e in window) >= 0.9 * len(window):
            return float(start)
    return None


def draw(served: Served, answers: Sequence[Answered], path: Path) -> None:
    """Arrivals, share of each variant, accuracy delivered and latency over time."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    names = sorted(served.ladder.candidates, key=lambda c: -c.service_s(1, 50))
    accuracy = {each.variant: value(each) for each in served.ladder.candidates}
    edges = np.arange(0.0, CALM_S + BUSY_S + AFTER_S + BIN_S, BIN_S)
    at = np.array([each.arrival.at_us / 1e6 for each in answers])
    where = np.digitize(at, edges) - 1
    counts = {
        c.variant: np.array(
            [
                sum(answers[i].variant == c.variant for i in np.flatnonzero(where == k).tolist())
                for k in range(len(edges) - 1)
            ]
        )
        for c in names
    }
    middle = (edges[:-1] + edges[1:]) / 2
    figure, (load, quality, wait) = plt.subplots(
        3, 1, figsize=(9, 7), sharex=True, height_ratios=(3, 2, 2), layout="constrained"
    )
    load.stackplot(
        middle, [counts[c.variant] / BIN_S for c in names], labels=[c.variant for c in names]
    )
    load.set_ylabel("answers a second")
    load.legend(loc="upper left", fontsize="small", ncols=2)
    delivered = [
        np.mean(
            [accuracy[v] for i in np.flatnonzero(where == k).tolist() if (v := answers[i].variant)]
            or [np.nan]
        )
        for k in range(len(edges) - 1)
    ]
    quality.plot(middle, delivered, drawstyle="steps-mid")
    floor = FLOOR * value(served.ladder.best)
    quality.axhline(floor, linestyle=":", color="grey")
    quality.annotate("floor", (0, floor), fontsize="small", va="bottom")
    quality.set_ylabel("accuracy delivered")
    limit_ms = 1e3 * (answers[0].arrival.constraints.max_latency_s or 0.0)
    late = [1e3 * each.latency_s for each in answers]
    wait.scatter(at, late, s=2)
    wait.axhline(limit_ms, linestyle=":", color="grey")
    wait.annotate("deadline", (0, limit_ms), fontsize="small", va="bottom")
    wait.set_ylabel("latency, ms")
    wait.set_xlabel("seconds")
    for axes in (load, quality, wait):
        axes.spines[["top", "right"]].set_visible(False)
        for edge in (CALM_S, CALM_S + BUSY_S):
            axes.axvline(edge, linewidth=0.8, color="grey")
    figure.savefig(path, dpi=110)
