"""Rate bands: each variant serves the range of arrival rates that it can sustain.

Marda et al., "SWITCH: An Exemplar for Evaluating Self-Adaptive ML-Enabled Systems", SEAMS 2024:
at every interval the measured rate chooses the band, and the band the variant.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.routing.baselines import Setting
from benchmarks.routing.baselines.gears import accurate_first, most_per_s, nearest
from benchmarks.routing.baselines.load import Paced
from router.batching import fill
from router.fleet import Queued
from router.view import Choice, View


def grid(setting: Setting) -> Sequence[Mapping[str, Any]]:
    """Interval (in units of the most accurate's time) and the share of capacity that is used."""
    return tuple({"units": u, "used": share} for u in (10, 50) for share in (0.5, 0.7, 0.9))


class RateBands:
    """The policy: its state is the measured rate."""

    def __init__(self, setting: Setting, units: float, used: float) -> None:
        limit_s = setting.deadlines_s[len(setting.deadlines_s) // 2]
        self._bands = [
            (used * setting.workers * most_per_s(each, limit_s, setting.max_batch), each.variant)
            for each in accurate_first(setting.ladder)
        ]
        self._gear = Paced(setting, units=units, plan=self._band)

    def arrived(self, now_s: float, queued: Queued) -> None:
        """Count it."""
        self._gear.arrived()

    def choose(self, view: View) -> Choice:
        """The band's variant."""
        variant = nearest(view, self._gear.at(view.now_s))
        return Choice(variant=variant, requests=fill(view, variant))

    def _band(self, per_s: float) -> str:
        last = self._bands[-1][1]
        return next((name for sustained, name in self._bands if sustained >= per_s), last)


def build(setting: Setting, *, units: float, used: float) -> RateBands:
    """A fresh policy."""
    return RateBands(setting, units, used)
