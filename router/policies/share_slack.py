"""Slack is shared: the best variant at which the *whole* queue still meets its deadlines.

A greedy choice spends slack that the requests behind the head needed. Here a variant is taken
only if every waiting request, each at that variant or at its own fastest where it may not use
that one, would still be in time. In a burst the queue grows, fewer variants pass, and quality
steps down together inside each caller's bounds; when the burst is over it steps back up.
Requests without a deadline cannot be late, so by themselves they never cause a step down.

Where no variant passes, the queue cannot be saved whole: then the best variant that costs it no
further deadline, which the fastest by definition does not.
"""

from collections.abc import Sequence

from router.batching import fill, gaining
from router.lookahead import missed, ranked, whole_queue_in_time
from router.view import Choice, View


def choose(view: View) -> Choice:
    """The head's best variant that leaves the queue whole, or else costs it nothing more."""
    best_first = ranked(view)
    variant = next((name for name in best_first if whole_queue_in_time(view, name)), None)
    if variant is None:
        variant = _harmless(view, best_first)
    head = view.queue[0].id
    batch = fill(view, variant, gaining(view, variant) if variant == best_first[0] else None)
    if len(batch) > 1 and missed(view, variant, batch) > missed(view, variant, (head,)):
        batch = (head,)
    return Choice(variant=variant, requests=batch)


def _harmless(view: View, best_first: Sequence[str]) -> str:
    """The best variant for the head that costs the queue no deadline more than its fastest."""
    head, fastest = (view.queue[0].id,), view.head.fastest
    fewest = missed(view, fastest, head)
    return next((name for name in best_first if missed(view, name, head) <= fewest), fastest)
