"""When would a request finish: the wait for a worker, plus a quantile of its own service time.

Work ahead is added up at the median and only the request's own service at its percentile: the
sum of many 95th percentiles would be far above the 95th percentile of the sum.
"""

import math
from collections.abc import Mapping, Sequence

from router.candidate import Candidate
from router.fleet import Queued, WorkerView


def queued_s(
    queue: Sequence[Queued],
    candidates: Mapping[str, Candidate],
    *,
    deadline_s: float,
    urgency: int,
) -> float:
    """Worker-seconds of queued work that goes before a new request of this rank.

    Each counts the median of its fastest eligible variant; one without any measured variant
    counts nothing. Among equals the one that already waits goes first.
    """
    fastest: dict[tuple[tuple[str, ...], int], float] = {}
    total = 0.0
    for request in queue:
        if request.urgency > urgency:
            continue
        if request.urgency == urgency and request.deadline_s > deadline_s:
            continue
        kind = (request.eligible, request.rows)
        if kind not in fastest:
            known = (candidates[name] for name in request.eligible if name in candidates)
            fastest[kind] = min(
                (c.service_s(request.rows, 50) for c in known if c.service and c.blocked is None),
                default=0.0,
            )
        total += fastest[kind]
    return total


def start_in_s(
    workers: Sequence[WorkerView], variant: str, *, now_s: float, ahead_s: float
) -> float:
    """Seconds until a worker that has `variant` could start, behind `ahead_s` worker-seconds.

    The first such worker to be free, plus the work ahead shared by all live workers. Infinite
    where no worker has the variant.
    """
    free_s = [max(0.0, worker.free_at_s - now_s) for worker in workers if variant in worker.loaded]
    return min(free_s) + ahead_s / len(workers) if free_s else math.inf


def work_ahead_s(
    queue: Sequence[Queued],
    workers: Sequence[WorkerView],
    candidates: Mapping[str, Candidate],
    *,
    now_s: float,
    deadline_s: float,
    urgency: int,
    variant: str,
) -> float:
    """Predicted seconds until a worker that has `variant` loaded could start this request.

    `start_in_s` behind the queued work that goes before it. To ask for several variants of one
    request, add up the queue once with `queued_s`.
    """
    ahead_s = queued_s(queue, candidates, deadline_s=deadline_s, urgency=urgency)
    return start_in_s(workers, variant, now_s=now_s, ahead_s=ahead_s)


def finish_s(
    candidate: Candidate, *, rows: int, percentile: int, wait_s: float, overhead_s: float
) -> float:
    """Predicted seconds from now to the reply: overhead, wait, service at this percentile.

    Raises `NotMeasured` where the candidate has no service time.
    """
    return overhead_s + wait_s + candidate.service_s(rows, percentile)
