"""The head's best variant that keeps the head's deadline; the rest of the queue is not asked.

"Best" is by the head's objective, so for `accuracy` this is the strongest simple baseline of the
literature: the most accurate model that fits the slack of the earliest request, else the fastest
("OnlineBaseline" in D. Mendoza et al., "Model Selection for Latency-Critical Inference Serving",
EuroSys 2024).
"""

from router.batching import fill, gaining
from router.lookahead import ranked
from router.view import Choice, View


def choose(view: View) -> Choice:
    """The best variant in time for the head, with whoever gains by sharing the run."""
    variant = ranked(view)[0]
    return Choice(variant=variant, requests=fill(view, variant, gaining(view, variant)))
