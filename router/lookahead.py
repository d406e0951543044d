"""Does the queue still make its deadlines after this choice?

The queue is played forward in order over this worker and the others: each request starts on the
worker that is free first, holds it for its median and must meet its deadline at its percentile.
Only those others count that have every variant loaded that is played, so as never to promise too
much.
"""

import math
from collections.abc import Collection
from heapq import heapify, heapreplace

from router.ranking import preference
from router.view import Options, View


def ranked(view: View) -> list[str]:
    """The head's variants that keep its deadline, best by its objective first.

    Without a deadline all of them; where none keeps it (late work under a soft bound), only the
    fastest.
    """
    head, options, due_s = view.queue[0], view.head, view.due_s[0]
    ready_s = view.now_s + view.overhead_s
    if due_s == math.inf and head.deadline_s != math.inf:
        return [options.quickest]
    in_time = (name for name, tail_s in options.tail_s.items() if ready_s + tail_s <= due_s)
    keys = (
        preference(head.objective, view.candidates[name], options.tail_s[name]) for name in in_time
    )
    return [name for *_, name in sorted(keys)]


def whole_queue_in_time(view: View, gear: str) -> bool:
    """Whether every request meets its deadline, each at `gear` or at its own fastest variant.

    Where the profile says that batches pay, batched runs count as well: each request then
    occupies its share of the best batch and finishes when a whole one does.
    """
    last = _last_due(view)
    if last < 0:
        return True
    if _plays_out(view, gear, last, _alone(view, gear)):
        return True
    batched = _batched(view, gear)
    return batched is not None and _plays_out(view, gear, last, batched)


def missed(view: View, variant: str, batch: Collection[int]) -> int:
    """How many of the rest miss their deadline if these requests run now on `variant`.

    `batch` holds request ids. The rest run at their fastest, one by one; what would be dropped
    takes no time.
    """
    batch = frozenset(batch)
    rows = sum(request.rows for request in view.queue if request.id in batch)
    candidate = view.candidates[variant]
    busy_s = candidate.service_s(rows, 50) if candidate.service else math.inf
    free_s = _free_s(view, view.now_s + busy_s, {options.fastest for options in set(view.options)})
    overhead_s = view.overhead_s
    misses = 0
    stop = _last_due(view) + 1
    for request, options, due_s in zip(
        view.queue[:stop], view.options[:stop], view.due_s[:stop], strict=True
    ):
        if request.id in batch:
            continue
        fastest = options.fastest
        start_s = free_s[0]
        if start_s + overhead_s + options.tail_s[fastest] > due_s:
            misses += 1
            if request.drop_late:
                continue
        heapreplace(free_s, start_s + options.typical_s[fastest])
    return misses


def _last_due(view: View) -> int:
    """Index of the last request with a deadline; nothing behind it can be missed."""
    for index in range(len(view.due_s) - 1, -1, -1):
        if view.due_s[index] != math.inf:
            return index
    return -1


def _free_s(view: View, here_s: float, variants: set[str]) -> list[float]:
    """When each worker is free, as a heap: this one at `here_s`, and who else has the variants."""
    now_s = view.now_s
    free_s = [max(now_s, other.free_at_s) for other in view.others if variants <= other.loaded]
    free_s.append(here_s)
    heapify(free_s)
    return free_s


Pace = dict[Options, tuple[float, float]]
"""For alike requests: seconds that one occupies a worker, seconds from its start to its finish."""


def _alone(view: View, gear: str) -> Pace:
    pace: Pace = {}
    for options in set(view.options):
        variant = gear if gear in options.tail_s else options.fastest
        pace[options] = (options.typical_s[variant], options.tail_s[variant])
    return pace


def _batched(view: View, gear: str) -> Pace | None:
    """The pace with batches of the size that is cheapest per row; None where none pays."""
    candidate = view.candidates[gear]
    sizes = list(view.outlook.paying_sizes(gear, view.max_batch))
    if not sizes:
        return None
    waiting = sum(options.rows for options in view.options if gear in options.tail_s)
    sizes = [size for size in sizes if size <= waiting]
    if not sizes:
        return None
    best = min(sizes, key=lambda size: (candidate.service[size].p50 / size, size))
    per_row_s = candidate.service[best].p50 / best
    pace = _alone(view, gear)
    for options in pace:
        if gear in options.tail_s and options.rows < best:
            pace[options] = (
                options.rows * per_row_s,
                candidate.service_s(best, options.percentile),
            )
    return pace


def _plays_out(view: View, gear: str, last: int, pace: Pace) -> bool:
    overhead_s = view.overhead_s
    played = {gear if gear in options.tail_s else options.fastest for options in pace}
    free_s = _free_s(view, view.now_s, played)
    for options, due_s in zip(view.options[: last + 1], view.due_s[: last + 1], strict=True):
        occupies_s, finishes_s = pace[options]
        start_s = free_s[0]
        if start_s + overhead_s + finishes_s > due_s:
            return False
        heapreplace(free_s, start_s + occupies_s)
    return True
