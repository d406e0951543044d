"""Round robin: requests go to the variants that keep their bounds in turn."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.routing.baselines import Setting
from benchmarks.routing.baselines.gears import Bound
from router.candidate import Candidate


def grid(setting: Setting) -> Sequence[Mapping[str, Any]]:
    """Nothing to tune."""
    return ({},)


def pin(setting: Setting, eligible: Sequence[Candidate], number: int) -> str:
    """The one whose turn it is."""
    return eligible[number % len(eligible)].variant


def build(setting: Setting) -> Bound:
    """A fresh policy."""
    return Bound()
