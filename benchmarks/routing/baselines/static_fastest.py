"""Static, fastest: every request on the fastest variant that keeps its bounds, at any load."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.routing.baselines import Setting
from benchmarks.routing.baselines.gears import Bound
from router.candidate import Candidate


def grid(setting: Setting) -> Sequence[Mapping[str, Any]]:
    """Nothing to tune."""
    return ({},)


def pin(setting: Setting, eligible: Sequence[Candidate], number: int) -> str:
    """The fastest."""
    return min(eligible, key=lambda each: (each.service_s(1, 95), each.variant)).variant


def build(setting: Setting) -> Bound:
    """A fresh policy."""
    return Bound()
