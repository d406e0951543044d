"""After a refusal: which bound is to blame, and the smallest single step that would help."""

import math
from collections.abc import Sequence
from typing import Literal

from router.constraints import BOUNDS, Bound, Constraints
from router.decision import Rejection, Relaxation, Verdict
from router.explain import outward, relaxation

EPSILON = 1e-9
"""Stands in for a limit of zero where a change is taken relative to it."""


def hard(constraints: Constraints, verdict: Verdict) -> tuple[Rejection, ...]:
    """The rejections that no softness lifts."""
    return tuple(
        rejection
        for rejection in verdict.rejections
        if rejection.against is None or constraints.is_hard(rejection.against)
    )


def binding(
    constraints: Constraints, verdicts: Sequence[Verdict]
) -> Bound | Literal["blocked"] | None:
    """The bound whose removal alone would make the most candidates feasible.

    Where no single removal is enough: the bound that rejects the most candidates that are not
    blocked. `blocked` where no bound rejects any; None without candidates.
    """
    if not verdicts:
        return None
    alone = dict.fromkeys(BOUNDS, 0)
    any_at_all = dict.fromkeys(BOUNDS, 0)
    for verdict in verdicts:
        failed = {rejection.against for rejection in hard(constraints, verdict)}
        for bound in BOUNDS:
            alone[bound] += failed == {bound}
            any_at_all[bound] += bound in failed and None not in failed
    for count in (alone, any_at_all):
        bound = max(BOUNDS, key=lambda name: count[name])
        if count[bound]:
            return bound
    return "blocked"


def cheapest_relaxation(constraints: Constraints, verdicts: Sequence[Verdict]) -> Relaxation | None:
    """The single bound to move, least in proportion to itself, that lets one candidate answer.

    Only candidates that fail one hard bound by a known number come into question; None where
    there are none. Ties break by the order of `BOUNDS`, then variant id.
    """
    found: list[tuple[float, int, str, Relaxation]] = []
    for verdict in verdicts:
        failed = hard(constraints, verdict)
        if len(failed) != 1:
            continue
        only = failed[0]
        if only.against is None or only.limit is None or only.found is None:
            continue
        bound, limit = only.against, only.limit
        needed = outward(bound, only.found)
        if not (math.isfinite(needed) and needed >= 0):
            continue  # no bound can be set there
        step = Relaxation(
            bound=bound,
            limit=limit,
            needed=needed,
            variant=verdict.variant,
            sentence=relaxation(bound, limit, needed, verdict.variant),
        )
        change = abs(needed - limit) / max(limit, EPSILON)
        found.append((change, BOUNDS.index(bound), verdict.variant, step))
    return min(found, key=lambda entry: entry[:3])[3] if found else None
