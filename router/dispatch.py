"""When a worker becomes free: drop the hopeless, ask the policy about the rest."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from router.fleet import WorkerView
from router.forecast import Forecast
from router.kind import Kind
from router.outlook import Options, Outlook
from router.policies import Policy
from router.view import Choice, View
from router.waiting import Waiting

__all__ = ["Choice", "Dispatch", "View", "dispatch"]


class Dispatch(NamedTuple):
    """What to run on the free worker, if anything, and which requests to give up unrun (ids)."""

    choice: Choice | None
    drop: tuple[int, ...]


def dispatch(
    policy: Policy,
    *,
    queue: Waiting,
    outlook: Outlook,
    others: Sequence[WorkerView],
    now_s: float,
    overhead_s: float,
    max_batch: int,
    forecast: Forecast | None = None,
) -> Dispatch:
    """The next run for the worker of `outlook`, which is free now. Changes nothing.

    `overhead_s` is what still comes after the run until the reply is out. A request that is
    dropped when late is given up once even its fastest eligible variant, started now, would
    typically (median) miss the deadline, wherever that variant is loaded; one that can no longer
    be met here but may be elsewhere stays in the queue. A request of more rows than `max_batch`
    runs alone.
    """
    ready_s = now_s + overhead_s
    kinds, requests = queue.kinds, queue.requests
    due_s = queue.deadlines_s.copy()
    options: dict[Kind, Options | None] = {}
    latest_s = -math.inf
    for kind in queue.counts:
        found = options[kind] = outlook.options(kind)
        slowest_s = math.inf if found is None else max(found.fastest_s, found.quickest_s)
        latest_s = max(latest_s, ready_s + slowest_s)
    drop: list[int] = []
    left_out: set[int] = set()
    for index in _critical(queue, latest_s):
        kind, request = kinds[index], requests[index]
        here = options[kind]
        if request.drop_late and ready_s + outlook.anywhere_s(kind) > request.deadline_s:
            drop.append(request.id)
            left_out.add(index)
        elif here is None or (request.drop_late and ready_s + here.quickest_s > request.deadline_s):
            left_out.add(index)
        elif ready_s + here.fastest_s > request.deadline_s:
            due_s[index] = math.inf
    if len(left_out) == len(requests):
        return Dispatch(choice=None, drop=tuple(drop))
    view = View(
        queue=requests,
        kinds=kinds,
        due_s=due_s,
        counts=_servable(queue, options),
        outlook=outlook,
        others=others,
        now_s=now_s,
        overhead_s=overhead_s,
        max_batch=max_batch,
        forecast=forecast,
    )
    if left_out:
        view = view.only([index for index in range(len(requests)) if index not in left_out])
    return Dispatch(choice=policy.choose(view), drop=tuple(drop))


def _servable(queue: Waiting, options: Mapping[Kind, Options | None]) -> Mapping[Kind, int]:
    """How many of each kind wait, of those that have a variant loaded here."""
    if None not in options.values():
        return queue.counts
    return {kind: n for kind, n in queue.counts.items() if options[kind] is not None}


def _critical(queue: Waiting, latest_s: float) -> Sequence[int]:
    """Indexes of the requests that are due before `latest_s`: no other can be late."""
    if latest_s == math.inf:
        return range(len(queue))
    if queue.by_deadline:
        return range(bisect_left(queue.deadlines_s, latest_s))
    return [index for index, due_s in enumerate(queue.deadlines_s) if due_s < latest_s]
