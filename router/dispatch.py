"""When a worker becomes free: put the queue in order, drop the hopeless, ask the policy."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.candidate import Candidate
from router.fleet import Queued, WorkerView, queue_order
from router.policies import Policy
from router.view import Choice, Options, View

__all__ = ["Choice", "Dispatch", "View", "dispatch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dispatch:
    """What to run on the free worker, if anything, and which requests to give up unrun (ids)."""

    choice: Choice | None
    drop: tuple[int, ...]


def dispatch(
    policy: Policy,
    *,
    queue: Sequence[Queued],
    candidates: Mapping[str, Candidate],
    worker: WorkerView,
    others: Sequence[WorkerView],
    now_s: float,
    overhead_s: float,
    max_batch: int,
    order: Callable[[Queued], Any] = queue_order,
) -> Dispatch:
    """The next run for `worker`, which is free now.

    `overhead_s` is what still comes after the run until the reply is out. A request that is
    dropped when late is given up once even its fastest eligible variant, started now, would
    typically (median) miss the deadline, wherever that variant is loaded; one that can no longer
    be met here but may be elsewhere stays in the queue. A request of more rows than `max_batch`
    runs alone.
    """
    alike: dict[tuple[tuple[str, ...], int, int], tuple[float, Options | None]] = {}
    kept: list[Queued] = []
    options: list[Options] = []
    due_s: list[float] = []
    drop: list[int] = []
    ready_s = now_s + overhead_s
    for request in sorted(queue, key=order):
        key = (request.eligible, request.rows, request.percentile)
        found = alike.get(key)
        if found is None:
            found = alike[key] = _outlook(request, candidates, worker.loaded)
        anywhere_s, here = found
        if request.drop_late and ready_s + anywhere_s > request.deadline_s:
            drop.append(request.id)
            continue
        if here is None:
            continue
        if request.drop_late and ready_s + min(here.typical_s.values()) > request.deadline_s:
            continue
        safe = ready_s + here.tail_s[here.fastest] <= request.deadline_s
        kept.append(request)
        options.append(here)
        due_s.append(request.deadline_s if safe else math.inf)
    if not kept:
        return Dispatch(choice=None, drop=tuple(drop))
    view = View(
        queue=tuple(kept),
        options=tuple(options),
        due_s=tuple(due_s),
        candidates=candidates,
        loaded=worker.loaded,
        others=others,
        now_s=now_s,
        overhead_s=overhead_s,
        max_batch=max_batch,
    )
    return Dispatch(choice=policy.choose(view), drop=tuple(drop))


def _outlook(
    request: Queued, candidates: Mapping[str, Candidate], loaded: frozenset[str]
) -> tuple[float, Options | None]:
    """Median of the fastest eligible variant anywhere (0 if unmeasured), and the options here."""
    anywhere_s = math.inf
    typical_s: dict[str, float] = {}
    tail_s: dict[str, float] = {}
    for name in request.eligible:
        candidate = candidates.get(name)
        if candidate is None or candidate.blocked is not None:
            continue
        typical = tail = math.inf
        if candidate.service:
            typical = candidate.service_s(request.rows, 50)
            tail = candidate.service_s(request.rows, request.percentile)
        anywhere_s = min(anywhere_s, typical)
        if name in loaded:
            typical_s[name], tail_s[name] = typical, tail
    if math.isinf(anywhere_s):
        anywhere_s = 0.0
    if not tail_s:
        return anywhere_s, None
    here = Options(
        rows=request.rows,
        percentile=request.percentile,
        typical_s=typical_s,
        tail_s=tail_s,
        fastest=min(tail_s, key=lambda name: (tail_s[name], name)),
    )
    return anywhere_s, here
