"""Always the head's best variant among those in time, one request at a time, whatever waits.

What a server does that holds one model: nothing is given up for the sake of the queue. A yardstick
for the others. "Best" is by the head's objective; without a variant in time the fastest is taken.
"""

from router.ranking import preference
from router.view import Choice, View


def choose(view: View) -> Choice:
    """The head alone, on the best variant that it may use, in time or not."""
    head, options = view.queue[0], view.head
    best = min(
        preference(head.objective, view.candidates[name], options.tail_s[name])
        for name in options.tail_s
    )[-1]
    return Choice(variant=best, requests=(head.id,))
