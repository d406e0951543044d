"""Which queued requests may share one run with the head."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from router.candidate import Candidate
from router.constraints import Objective
from router.kind import Kind
from router.ranking import preference
from router.view import Options, View


class Rider(NamedTuple):
    """A request that may ride along: its rows, its time alone, and when the run must be over."""

    id: int
    rows: int
    alone_s: float
    percentile: int
    due_s: float


def fill(view: View, variant: str, willing: Sequence[bool] | None = None) -> tuple[int, ...]:
    """Ids of the batch to run on `variant`: the head first, then who joins it, in queue order.

    Each measured batch size up to `max_batch` is filled in order, and the one that saves most
    against one run each (medians) is taken; the head runs alone where none saves anything.
    Nobody in the batch misses a deadline that it would keep alone. `willing` says, beside the
    queue, who may join; without it everybody may. Nothing is ever waited for.
    """
    candidate, head = view.candidates[variant], view.queue[0]
    best: tuple[int, ...] = (head.id,)
    if len(view.queue) == 1:
        return best
    paying = view.outlook.paying_sizes(variant, view.max_batch)
    sizes = [size for size in paying if size > head.rows]
    if not sizes:
        return best
    most_saved_s = 0.0
    if willing is None:
        willing = [True] * len(view.queue)
    if len(view.counts) == 1 and all(willing) and _none_hurries(view, candidate, sizes):
        return _first(view, candidate, variant, sizes)
    riders = _riders(view, variant, willing)
    for size in sizes:
        batch = _fill_to(view, candidate, size, riders)
        rows = sum(rider.rows for rider in batch)
        saved_s = sum(rider.alone_s for rider in batch) - candidate.service_s(rows, 50)
        if len(batch) > 1 and saved_s > most_saved_s and _in_time(view, candidate, rows, batch):
            best, most_saved_s = tuple(rider.id for rider in batch), saved_s
    return best


def gaining(view: View, variant: str) -> list[bool]:
    """Whether each request does well to join the head: none that could have a better one after it.

    The head itself always does.
    """
    ready_s = view.now_s + view.overhead_s
    after_head_s = ready_s + view.head.typical_s[variant]
    better_s: dict[Kind, float | None] = {}
    gains = []
    for kind, options, due_s in zip(view.kinds, view.options, view.due_s, strict=True):
        if kind not in better_s:
            better_s[kind] = (
                _better_tail_s(view, variant, options, kind.objective)
                if variant in options.tail_s
                else None
            )
        better = better_s[kind]
        gains.append(better is None or after_head_s + better > due_s)
    gains[0] = True
    return gains


def _none_hurries(view: View, candidate: Candidate, sizes: Sequence[int]) -> bool:
    """Whether even the longest of these runs would be in time for everybody."""
    percentile = view.kinds[0].percentile
    longest_s = max([candidate.service[size].at(percentile) for size in sizes])
    return view.now_s + view.overhead_s + longest_s <= min(view.due_s)


def _first(view: View, candidate: Candidate, variant: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """What `fill` answers where all are alike, join and have time: so many from the front."""
    rows, alone_s = view.kinds[0].rows, view.head.typical_s[variant]
    best, most_saved_s = 1, 0.0
    for size in sizes:
        count = min(size // rows, len(view.queue))
        saved_s = count * alone_s - candidate.service_s(count * rows, 50)
        if count > 1 and saved_s > most_saved_s:
            best, most_saved_s = count, saved_s
    return tuple([request.id for request in view.queue[:best]])


def _riders(view: View, variant: str, willing: Sequence[bool]) -> list[Rider]:
    """The head, then every request that may join it, in queue order."""
    ready_s = view.now_s + view.overhead_s
    riders = []
    for request, options, due_s, joins in zip(
        view.queue, view.options, view.due_s, willing, strict=True
    ):
        if not joins or variant not in options.tail_s:
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
