"""Which queued requests may share one run with the head."""

import math
from typing import NamedTuple

from router.candidate import Candidate
from router.constraints import Objective
from router.ranking import preference
from router.view import Options, View


class Rider(NamedTuple):
    """A request that may ride along: its rows, its time alone, and when the run must be over."""

    id: int
    rows: int
    alone_s: float
    percentile: int
    due_s: float


def fill(view: View, variant: str, *, shifted: bool) -> tuple[int, ...]:
    """Ids of the batch to run on `variant`: the head first, then who joins it, in queue order.

    Each measured batch size up to `max_batch` is filled in order, and the one that saves most
    against one run each (medians) is taken; the head runs alone where none saves anything.
    Nobody in the batch misses a deadline that it would keep alone. `shifted` says that the
    variant was chosen for the sake of the whole queue; otherwise nobody joins who could still
    have a better one after the head. Nothing is ever waited for.
    """
    candidate, head = view.candidates[variant], view.queue[0]
    sizes = [size for size in paying_sizes(candidate, view.max_batch) if size > head.rows]
    best: tuple[int, ...] = (head.id,)
    most_saved_s = 0.0
    if not sizes or len(view.queue) == 1:
        return best
    riders = _riders(view, variant, shifted=shifted)
    for size in sizes:
        batch = _fill_to(view, candidate, size, riders)
        rows = sum(rider.rows for rider in batch)
        saved_s = sum(rider.alone_s for rider in batch) - candidate.service_s(rows, 50)
        if len(batch) > 1 and saved_s > most_saved_s and _in_time(view, candidate, rows, batch):
            best, most_saved_s = tuple(rider.id for rider in batch), saved_s
    return best


def paying_sizes(candidate: Candidate, max_batch: int) -> list[int]:
    """Measured batch sizes up to `max_batch` that cost less per row than the smallest (median)."""
    service = candidate.service
    if not service:
        return []
    smallest = min(service)
    single_s = service[smallest].p50 / smallest
    return [
        size
        for size in sorted(service)
        if size <= max_batch and service[size].p50 / size < single_s
    ]


def _riders(view: View, variant: str, *, shifted: bool) -> list[Rider]:
    """The head, then every request that may join it, in queue order."""
    ready_s = view.now_s + view.overhead_s
    after_head_s = ready_s + view.options[0].typical_s[variant]
    better_s: dict[tuple[Options, Objective], float | None] = {}
    riders = []
    for index, (request, options, due_s) in enumerate(
        zip(view.queue, view.options, view.due_s, strict=True)
    ):
        if variant not in options.tail_s:
            continue
        if index and not shifted:
            alike = (options, request.objective)
            if alike not in better_s:
                better_s[alike] = _better_tail_s(view, variant, *alike)
            better = better_s[alike]
            if better is not None and after_head_s + better <= due_s:
                continue
        latest_s = due_s if ready_s + options.tail_s[variant] <= due_s else math.inf
        alone_s = options.typical_s[variant]
        riders.append(Rider(request.id, request.rows, alone_s, request.percentile, latest_s))
    return riders


def _better_tail_s(
    view: View, variant: str, options: Options, objective: Objective
) -> float | None:
    """The smallest tail among the variants that this objective prefers; None without any."""
    rank = {
        name: preference(objective, view.candidates[name], tail_s)
        for name, tail_s in options.tail_s.items()
    }
    return min((options.tail_s[name] for name in rank if rank[name] < rank[variant]), default=None)


def _fill_to(view: View, candidate: Candidate, size: int, riders: list[Rider]) -> list[Rider]:
    """The head and, in order, those who fit into `size` rows and can spare the time it takes."""
    ready_s = view.now_s + view.overhead_s
    service = candidate.service[size]
    batch, room = [riders[0]], size - riders[0].rows
    for rider in riders[1:]:
        if rider.rows <= room and ready_s + service.at(rider.percentile) <= rider.due_s:
            batch.append(rider)
            room -= rider.rows
            if not room:
                break
    return batch


def _in_time(view: View, candidate: Candidate, rows: int, batch: list[Rider]) -> bool:
    ready_s = view.now_s + view.overhead_s
    due_s: dict[int, float] = {}
    for rider in batch:
        due_s[rider.percentile] = min(rider.due_s, due_s.get(rider.percentile, math.inf))
    return all(ready_s + candidate.service_s(rows, p) <= due for p, due in due_s.items())
