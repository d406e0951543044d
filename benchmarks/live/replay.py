"""A live run's arrivals in the simulator, on the service times that the live run saw."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.live.ladder import Served
from benchmarks.live.play import WORKERS, Played
from benchmarks.routing.ladder import value
from router import policies
from router.correction import correcting
from router.simulate import Arrival, Outcome, simulate

FEWEST = 20
"""Where a variant ran less often at a batch size, its profile stands in."""


def replayed(served: Served, live: Played, runs: Sequence[Played], *, seed: int) -> dict[str, Any]:
    """Scores of the same policy on the same arrivals.

    Service times are drawn from what all `runs` saw. The router knows of the gateway's own median
    overhead; what callers waited beside queue and run is drawn from what this run saw.
    """
    arrivals: list[Arrival] = [each.arrival for each in live.answers]
    overheads_s = np.array(live.overheads_s or [(0.0, 0.0)])
    own_s = float(np.median(overheads_s[:, 0]))
    run = simulate(
        policies.find(live.policy),
        candidates=served.ladder.candidates,
        service=_service(served, arrivals[0].rows, runs),
        arrivals=arrivals,
        workers=WORKERS,
        seed=seed,
        max_batch=served.spec.max_batch,
        overhead_s=own_s / 2,
        handover_s=own_s / 2,
        admission=True,
        correction=correcting(),
    )
    accuracy = {each.variant: value(each) for each in served.ladder.candidates}
    drawn_s = np.random.default_rng(seed).choice(overheads_s.sum(axis=1), size=len(arrivals))
    kept = [
        outcome.variant
        for outcome, more_s in zip(run.outcomes, (drawn_s - own_s).tolist(), strict=True)
        if outcome.variant is not None and _in_time(outcome, arrivals[outcome.arrival], more_s)
    ]
    return {
        "effective_accuracy": sum(accuracy[variant] for variant in kept) / len(arrivals),
        "attainment": len(kept) / len(arrivals),
    }


def _in_time(outcome: Outcome, arrival: Arrival, more_s: float) -> bool:
    limit_s = arrival.constraints.max_latency_s
    if limit_s is None or outcome.finish_us is None:
        return True
    return (outcome.finish_us - arrival.at_us) / 1e6 + more_s <= limit_s


def _service(
    served: Served, rows: int, runs: Sequence[Played]
) -> dict[str, dict[int, list[float]]]:
    seen: dict[tuple[str, int], set[float]] = defaultdict(set)
    for run in runs:
        for each in run.answers:
            if each.variant is not None and each.run_s is not None:
                seen[each.variant, each.batch_rows].add(each.run_s)
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
