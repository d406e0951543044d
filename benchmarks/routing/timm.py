"""timm's public tables: latency at batch 1 of a thousand models, and their ImageNet accuracy.

The join is the model's name before its first dot. Out of all models a ladder of moderate size is
taken: those on the Pareto front, thinned evenly over the logarithm of time, and some that are
dominated, since real ladders hold such.
"""

import math
from collections.abc import Sequence

from benchmarks.routing.csv_table import Table
from benchmarks.routing.ladder import (
    Ladder,
    candidate,
    in_proportion,
    ladder_of,
    log_normal,
    pareto,
    value,
)
from router.candidate import Candidate
from variants.errors import Invalid
from variants.profile import BATCHES, Accuracy

FRONT = 8
DOMINATED = 3
TEST_ROWS = 50_000
"""Images of ImageNet's validation set."""


def holds_latency(table: Table) -> bool:
    """Whether this is a table of latencies."""
    return table.has("model", "infer_step_time", "infer_batch_size")


def holds_accuracy(table: Table) -> bool:
    """Whether this is the table of accuracies."""
    return table.has("model", "img_size", "top1")


def ladder(latency: Table, accuracy: Table, like: Ladder | None = None) -> Ladder:
    """A ladder of up to `FRONT` models on the front and `DOMINATED` behind it.

    With `like`, of the models that this ladder has, so that two hosts can be compared. Raises
    `Invalid` where fewer than two remain.
    """
    top1: dict[str, float] = {}
    for line in accuracy.lines:
        name = line.text("model").partition(".")[0]
        top1[name] = max(top1.get(name, 0.0), line.number_of("top1", most=100) / 100)
    found: dict[str, Candidate] = {}
    for line in latency.lines:
        name = line.text("model").partition(".")[0]
        if name not in top1 or name in found:
            continue
        seconds = line.number_of("infer_step_time") / 1e3 / line.number_of("infer_batch_size")
        found[name] = candidate(
            name,
            Accuracy.of(round(top1[name] * TEST_ROWS), TEST_ROWS),
            in_proportion(log_normal(seconds), BATCHES),
        )
    if len(found) < 2:
        raise Invalid(f"{latency.path} and {accuracy.path}: fewer than two models in common")
    same = [found[name] for name in like.service if name in found] if like else []
    return ladder_of(latency.path.stem, same if len(same) >= 2 else rungs(list(found.values())))


def rungs(models: Sequence[Candidate]) -> list[Candidate]:
    """At most one of the front in each factor of 1.6 in time from the fastest, then the rest.

    Models more than a quarter below the best are of no use to a router and left out.
    """
    worst = 0.75 * max(value(each) for each in models)
    front = [each for each in pareto(models) if value(each) >= worst]
    fastest_s = front[0].service_s(1, 50)
    chosen: dict[int, Candidate] = {}
    for each in front:
        step = math.floor(math.log(each.service_s(1, 50) / fastest_s) / math.log(1.6))
        if step < FRONT:
            chosen[step] = each
    rungs = list(chosen.values())
    behind = [
        each
        for each in sorted(models, key=lambda c: c.variant)
        if each not in front
        and value(rungs[0]) < value(each) < value(rungs[-1])
        and each.service_s(1, 50) < rungs[-1].service_s(1, 50)
    ]
    return rungs + behind[:: max(1, len(behind) // DOMINATED)][:DOMINATED]
