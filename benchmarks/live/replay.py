"""A live run's arrivals in the simulator, on the service times that the live run saw."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.live.ladder import Served
from benchmarks.live.play import WORKERS, Played
from benchmarks.routing.ladder import value
from router import policies
from router.correction import correcting
from router.simulate import Arrival, simulate

FEWEST = 20
"""Where a variant ran less often at a batch size, its profile stands in."""


def replayed(served: Served, live: Played, runs: Sequence[Played], *, seed: int) -> dict[str, Any]:
    """Scores of the same policy on the same arrivals; service times from all `runs`."""
    arrivals: list[Arrival] = [each.arrival for each in live.answers]
    run = simulate(
        policies.find(live.policy),
        candidates=served.ladder.candidates,
        service=_service(served, arrivals[0].rows, runs),
        arrivals=arrivals,
        workers=WORKERS,
        seed=seed,
        max_batch=served.spec.max_batch,
        overhead_s=live.overhead_s,
        admission=True,
        correction=correcting(),
    )
    accuracy = {each.variant: value(each) for each in served.ladder.candidates}
    kept = [o for o in run.outcomes if o.status == "answered" and o.variant is not None]
    return {
        "effective_accuracy": sum(accuracy[o.variant] for o in kept if o.variant) / len(arrivals),
        "attainment": len(kept) / len(arrivals),
    }


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
