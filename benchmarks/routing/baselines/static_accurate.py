"""Static, most accurate: every request on the best variant that keeps its bounds, at any load."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.routing.baselines import Setting
from benchmarks.routing.baselines.gears import Bound
from benchmarks.routing.ladder import value
from router.candidate import Candidate


def grid(setting: Setting) -> Sequence[Mapping[str, Any]]:
    """Nothing to tune."""
    return ({},)


def pin(setting: Setting, eligible: Sequence[Candidate], number: int) -> str:
    """The most accurate."""
    return max(eligible, key=lambda each: (value(each), -each.service_s(1, 50))).variant


def build(setting: Setting) -> Bound:
    """A fresh policy."""
    return Bound()
