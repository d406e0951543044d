"""What most published policies share: one variant for now, or the nearest one allowed."""

from collections.abc import Sequence

from benchmarks.routing.ladder import Ladder, pareto, value
from router.batching import fill
from router.candidate import Candidate
from router.view import Choice, View


def accurate_first(ladder: Ladder) -> list[Candidate]:
    """The variants worth switching to (the Pareto front), most accurate first."""
    return pareto(ladder.candidates)[::-1]


def per_s(candidate: Candidate, batch: int) -> float:
    """Rows that a worker serves a second in batches of this size, by the median."""
    return batch / candidate.service_s(batch, 50)


def most_per_s(candidate: Candidate, limit_s: float, max_batch: int) -> float:
    """Rows a second at the best measured batch whose p95 is within the limit, or one by one."""
    fitting = [
        per_s(candidate, size)
        for size, quantiles in candidate.service.items()
        if size <= max_batch and quantiles.p95 <= limit_s
    ]
    return max(fitting, default=per_s(candidate, 1))


def largest_batch(candidate: Candidate, limit_s: float, max_batch: int) -> int:
    """The largest measured batch whose p95 is within the limit; 0 where none is."""
    fitting = [
        size
        for size, quantiles in candidate.service.items()
        if size <= max_batch and quantiles.p95 <= limit_s
    ]
    return max(fitting, default=0)


def left_s(view: View, index: int = 0) -> float:
    """Seconds that a run of this request may take."""
    return view.queue[index].deadline_s - view.now_s - view.overhead_s


def nearest(view: View, gear: str, index: int = 0) -> str:
    """A request's variant for this gear: itself, else the most accurate that is no slower, else
    the fastest; never one that makes it late where another would not."""
    options = view.outlook.options(view.kinds[index])
    assert options is not None, "whoever is in the view has options"
    tail_s = options.tail_s
    most_s = left_s(view, index)
    if gear in tail_s and tail_s[gear] <= most_s:
        return gear
    most_s = min(most_s, view.candidates[gear].service_s(options.rows, options.percentile))
    fitting = [name for name, seconds in tail_s.items() if seconds <= most_s]
    if not fitting:
        return options.fastest
    return max(fitting, key=lambda name: (value(view.candidates[name]), -tail_s[name], name))


def batch(view: View, variant: str, limit: int, *, start: int = 0) -> tuple[int, ...]:
    """Ids from `start` on in queue order that may use the variant, at most `limit` rows.

    A request joins only while nobody in the batch would become late who alone would not be; the
    first one always runs.
    """
    candidate = view.candidates[variant]
    ready_s = view.now_s + view.overhead_s
    limit = min(limit, view.max_batch)
    ids: list[int] = []
    rows, latest_s, percentile = 0, float("inf"), 50
    for index in range(start, len(view.queue)):
        request, due_s = view.queue[index], view.due_s[index]
        options = view.outlook.options(view.kinds[index])
        if ids and rows + request.rows > limit:
            break
        if options is None or variant not in options.tail_s:
            continue
        alone = ready_s + options.tail_s[variant] <= due_s
        until_s = min(latest_s, due_s) if alone else latest_s
        asked = max(percentile, request.percentile)
        if ids and ready_s + candidate.service_s(rows + request.rows, asked) > until_s:
            break
        ids.append(request.id)
        rows, latest_s, percentile = rows + request.rows, until_s, asked
    return tuple(ids)


def serve(view: View, gear: str, limit: int) -> Choice:
    """The head on the nearest variant, with up to `limit` rows in queue order."""
    variant = nearest(view, gear)
    return Choice(variant=variant, requests=batch(view, variant, limit))


def spread(ladder: Ladder, most: int) -> Sequence[str]:
    """Up to `most` variants, evenly over the front, most accurate first."""
    front = accurate_first(ladder)
    if len(front) <= most:
        return [each.variant for each in front]
    return [front[round(i * (len(front) - 1) / (most - 1))].variant for i in range(most)]


class Bound:
    """Serves requests that are bound to one variant each; batches where they save time."""

    def choose(self, view: View) -> Choice:
        """The head on its only variant."""
        variant = view.head.fastest
        return Choice(variant=variant, requests=fill(view, variant))


class Gear:
    """Always the same gear; batches where they save time."""

    def __init__(self, gear: str) -> None:
        self._gear = gear

    def choose(self, view: View) -> Choice:
        """The head on the variant nearest to the gear."""
        variant = nearest(view, self._gear)
        return Choice(variant=variant, requests=fill(view, variant))
