"""A live run's arrivals in the simulator, on the service times that the live run saw."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.live.ladder import Served
from benchmarks.live.play import WORKERS, Played
from benchmarks.routing import metrics
from router import policies
from router.correction import correcting
from router.simulate import Arrival, Outcome, simulate

FEWEST = 20
"""Where a variant ran less often at a batch size, its profile stands in."""


def replayed(served: Served, live: Played, runs: Sequence[Played], *, seed: int) -> dict[str, Any]:
    """Scores of the same policy on the same arrivals.

    Service times are drawn from what this run saw, from what all `runs` saw where it did not, and
    a worker takes the median pause between two of its runs besides. The router knows of the
    gateway's own median overhead; what callers waited beside queue and run is drawn from what this
    run saw.
    """
    arrivals: list[Arrival] = [each.arrival for each in live.answers]
    overheads_s = np.array(live.overheads_s or [(0.0, 0.0)])
    pause_s = _pause_s(live)
    own_s = max(0.0, float(np.median(overheads_s[:, 0])) - pause_s)
    run = simulate(
        policies.find(live.policy),
        candidates=served.ladder.candidates,
        service={
            name: {rows: [time_s + pause_s for time_s in times] for rows, times in sizes.items()}
            for name, sizes in _service(served, arrivals[0].rows, live, runs).items()
        },
        arrivals=arrivals,
        workers=WORKERS,
        seed=seed,
        max_batch=served.spec.max_batch,
        overhead_s=own_s,
        admission=True,
        correction=correcting(),
    )
    drawn_s = np.random.default_rng(seed).choice(overheads_s.sum(axis=1), size=len(arrivals))
    outcomes = tuple(
        _later(outcome, arrivals[outcome.arrival], more_s)
        for outcome, more_s in zip(run.outcomes, (drawn_s - own_s - pause_s).tolist(), strict=True)
    )
    found = metrics.scores(replace(run, outcomes=outcomes), arrivals, served.ladder)
    return {"effective_accuracy": found.effective_accuracy, "attainment": found.attainment}


def _later(outcome: Outcome, arrival: Arrival, more_s: float) -> Outcome:
    """The same outcome, had the answer come so much later."""
    if outcome.finish_us is None:
        return outcome
    limit_s, finish_us = arrival.constraints.max_latency_s, outcome.finish_us + round(1e6 * more_s)
    late = limit_s is not None and finish_us - arrival.at_us > 1e6 * limit_s
    return replace(outcome, finish_us=finish_us, status="late" if late else "answered")


def _service(
    served: Served, rows: int, live: Played, runs: Sequence[Played]
) -> dict[str, dict[int, list[float]]]:
    own, seen = _seen([live]), _seen(runs)
    seen |= {key: times for key, times in own.items() if len(times) >= FEWEST}
    service: dict[str, dict[int, list[float]]] = {}
    for name, profile in served.ladder.service.items():
        single = sorted(seen[name, rows])
        middle = single[len(single) // 2] if len(single) >= FEWEST else None
        factor = 1.0 if middle is None else middle / float(profile[rows][len(profile[rows]) // 2])
        service[name] = {}
        for batch, samples in profile.items():
            times = sorted(seen[name, batch])
            service[name][batch] = (
                times if len(times) >= FEWEST else [factor * float(s) for s in samples]
            )
    return service


def _pause_s(live: Played) -> float:
    """Median seconds from run to run, where a request waited already while the first one ran."""
    runs = {
        each.run: (each.arrival.at_us / 1e6 + each.latency_s, each.run_s, each.queue_s)
        for each in live.answers
        if each.run_s is not None and each.queue_s is not None
    }
    ended = sorted(runs.values())
    pauses_s = [
        end_s - before_s - run_s
        for (before_s, _, _), (end_s, run_s, queue_s) in itertools.pairwise(ended)
        if queue_s > end_s - before_s
    ]
    return max(0.0, float(np.median(pauses_s))) if pauses_s else 0.0


def _seen(runs: Sequence[Played]) -> dict[tuple[str, int], list[float]]:
    """Seconds of the runs by variant and rows."""
    seen: dict[tuple[str, int], list[float]] = defaultdict(list)
    for played in runs:
        for each in {each.run: each for each in played.answers}.values():
            if each.variant is not None and each.run_s is not None:
                seen[each.variant, each.batch_rows].append(each.run_s)
    return seen
