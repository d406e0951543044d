"""Which queued requests may share one run with the head."""

import math
from typing import NamedTuple

from router.candidate import Candidate
from router.ranking import preference
from router.view import View


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
    sizes = _paying_sizes(candidate, head.rows, view.max_batch)
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


def _paying_sizes(candidate: Candidate, rows: int, max_batch: int) -> list[int]:
    """Measured batch sizes that hold more than the head and cost less per row than the smallest."""
    service = candidate.service
    if not service:
        return []
    smallest = min(service)
    single_s = service[smallest].p50 / smallest
    return [
        size
        for size in sorted(service)
        if rows < size <= max_batch and service[size].p50 / size < single_s
    ]


def _riders(view: View, variant: str, *, shifted: bool) -> list[Rider]:
    """The head, then every request that may join it, in queue order."""
    ready_s = view.now_s + view.overhead_s
    after_head_s = ready_s + view.options[0].typical_s[variant]
    riders = []
    for index, request in enumerate(view.queue):
        options, due_s = view.options[index], view.due_s[index]
        if variant not in options.tail_s:
            continue
        if index and not shifted and _has_better(view, index, variant, after_head_s):
            continue
        if ready_s + options.tail_s[variant] > due_s:
            due_s = math.inf  # late on this variant even alone: sharing makes it no worse
        alone_s = options.typical_s[variant]
        riders.append(Rider(request.id, request.rows, alone_s, request.percentile, due_s))
    return riders


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


def _has_better(view: View, index: int, variant: str, start_s: float) -> bool:
    """Whether a variant that this request prefers would still be in time, started after the head.

    `start_s` includes the overhead that follows the run.
    """
    request, options, due_s = view.queue[index], view.options[index], view.due_s[index]
    candidates = view.candidates

    def key(name: str) -> tuple[float, str]:
        return preference(request.objective, candidates[name], options.tail_s[name])

    mine = key(variant)
    return any(
        start_s + tail_s <= due_s and key(name) < mine for name, tail_s in options.tail_s.items()
    )
