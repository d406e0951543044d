"""The best single variant in hindsight: what nobody who chooses one for good can beat.

Tuned on the very windows that are reported on. A request that may not use the variant gets the
fastest that keeps its bounds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.routing.baselines import Setting
from benchmarks.routing.baselines.gears import Bound, spread
from router.candidate import Candidate

HINDSIGHT = True


def grid(setting: Setting) -> Sequence[Mapping[str, Any]]:
    """Up to five variants, evenly over the front."""
    return tuple({"variant": name} for name in spread(setting.ladder, 5))


def pin(setting: Setting, eligible: Sequence[Candidate], number: int, *, variant: str) -> str:
    """The variant, or the fastest."""
    if any(each.variant == variant for each in eligible):
        return variant
    return min(eligible, key=lambda each: (each.service_s(1, 95), each.variant)).variant


def build(setting: Setting, *, variant: str) -> Bound:
    """A fresh policy."""
    return Bound()
