"""Jellyfish: the most accurate variant that sustains a worker's rate within half the deadline.

Nigade et al., "Jellyfish: Timely Inference Serving for Dynamic Edge Networks", RTSS 2022, in the
form in which RAMSIS compares with it: a variant qualifies with a batch b where b ÷ l(b) is at
least 1.05 times the worker's arrival rate and l(b) at most half the deadline; whatever is queued
is served in batches up to b; where none qualifies, the fastest.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.routing.baselines import Setting
from benchmarks.routing.baselines.gears import accurate_first, largest_batch, per_s, serve
from benchmarks.routing.baselines.load import Paced
from router.fleet import Queued
from router.view import Choice, View

HEADROOM = 1.05


def grid(setting: Setting) -> Sequence[Mapping[str, Any]]:
    """Which class's deadline counts, and the interval in units."""
    return tuple({"objective": index, "units": u} for index in (0, 1, 2) for u in (10, 50))


class Jellyfish:
    """The policy: its state is the measured rate."""

    def __init__(self, setting: Setting, objective: int, units: float) -> None:
        self._setting = setting
        self._half_s = setting.deadlines_s[objective] / 2
        self._plan = Paced(setting, units=units, plan=self._select)

    def arrived(self, now_s: float, queued: Queued) -> None:
        """Count it."""
        self._plan.arrived()

    def choose(self, view: View) -> Choice:
        """What is queued, up to the batch."""
        gear, size = self._plan.at(view.now_s)
        return serve(view, gear, size)

    def _select(self, rate_per_s: float) -> tuple[str, int]:
        share = rate_per_s / self._setting.workers
        front = accurate_first(self._setting.ladder)
        for each in front:
            size = largest_batch(each, self._half_s, self._setting.max_batch)
            if size and per_s(each, size) >= HEADROOM * share:
                return each.variant, size
        fastest = front[-1]
        return fastest.variant, largest_batch(fastest, self._half_s, self._setting.max_batch) or 1


def build(setting: Setting, *, objective: int, units: float) -> Jellyfish:
    """A fresh policy."""
    return Jellyfish(setting, objective, units)
