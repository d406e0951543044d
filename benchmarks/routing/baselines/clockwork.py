"""Clockwork: earliest deadline first, with the largest batch whose latest start is not yet past.

Gujarati et al., "Serving DNNs like Clockwork: Performance Predictability from the Bottom Up", OSDI
2020: a (variant, batch) is estimated by a high percentile of its last runs; a request yields one
strategy for each batch size with a latest start of deadline − estimate; the largest that can still
start is filled. It has no notion of choosing among variants, so it is pinned to the one that did
best on the training window.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.routing.baselines import Setting
from benchmarks.routing.baselines.gears import batch, left_s, nearest, spread
from router.view import Choice, View

LAST_RUNS = 10


def grid(setting: Setting) -> Sequence[Mapping[str, Any]]:
    """Which variant."""
    return tuple({"gear": gear} for gear in spread(setting.ladder, 6))


class Clockwork:
    """The policy: its state is the last runs of each variant and batch."""

    def __init__(self, setting: Setting, gear: str) -> None:
        self._gear = gear
        self._runs: dict[tuple[str, int], deque[float]] = {}

    def finished(self, now_s: float, variant: str, rows: int, run_s: float) -> None:
        """Remember the run."""
        self._runs.setdefault((variant, rows), deque(maxlen=LAST_RUNS)).append(run_s)

    def choose(self, view: View) -> Choice:
        """The largest strategy that can still start."""
        variant = nearest(view, self._gear)
        candidate = view.candidates[variant]
        most = min(len(view.queue), view.max_batch)
        sizes = [size for size in candidate.service if size <= most]
        slack_s = left_s(view)
        fitting = [
            size
            for size in sizes
            if max(self._runs.get((variant, size), [candidate.service[size].p95])) <= slack_s
        ]
        return Choice(
            variant=variant, requests=batch(view, variant, max(fitting, default=view.queue[0].rows))
        )


def build(setting: Setting, *, gear: str) -> Clockwork:
    """A fresh policy."""
    return Clockwork(setting, gear)
