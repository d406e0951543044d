"""What most published policies share: one variant for now, or the nearest one allowed."""

from collections.abc import Sequence

from benchmarks.routing.ladder import Ladder, pareto, value
from router.candidate import Candidate
from router.view import Choice, View


def accurate_first(ladder: Ladder) -> list[Candidate]:
    """The variants worth switching to (the Pareto front), most accurate first."""
    return pareto(ladder.candidates)[::-1]


def per_s(candidate: Candidate, batch: int) -> float:
    """Rows that a worker serves a second in batches of this size, by the median."""
    return batch / candidate.service_s(batch, 50)


def left_s(view: View) -> float:
    """Seconds that a run of the head may take."""
    return view.queue[0].deadline_s - view.now_s - view.overhead_s


def nearest(view: View, gear: str) -> str:
    """The head's variant for this gear: itself, else the most accurate that is no slower, else the
    fastest; never one that makes the head late where another would not."""
    options, tail_s = view.options[0], view.options[0].tail_s
    most_s = left_s(view)
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
    ids: list[int] = []
    rows, latest_s, percentile = 0, float("inf"), 50
    for request, options, due_s in zip(
        view.queue[start:], view.options[start:], view.due_s[start:], strict=True
    ):
        if ids and rows + request.rows > min(limit, view.max_batch):
            break
        if variant not in options.tail_s:
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


def largest_batch(candidate: Candidate, limit_s: float, max_batch: int) -> int:
    """The largest measured batch whose p95 is within the limit; 0 where none is."""
    fitting = [
        size
        for size, quantiles in candidate.service.items()
        if size <= max_batch and quantiles.p95 <= limit_s
    ]
    return max(fitting, default=0)


def spread(ladder: Ladder, most: int) -> Sequence[str]:
    """Up to `most` variants, evenly over the front, most accurate first."""
    front = accurate_first(ladder)
    if len(front) <= most:
        return [each.variant for each in front]
    return [front[round(i * (len(front) - 1) / (most - 1))].variant for i in range(most)]
