"""The stricter of what a caller asks for and what its key allows, and which of them bound."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from router.constraints import BOUNDS, Bound, Constraints
from variants.terms import Terms

Side = Literal["request", "key"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Narrowed:
    """The constraints that hold, and for each bound that the key has, which side is stricter."""

    constraints: Constraints
    sides: tuple[tuple[Bound, Side], ...] = ()


def narrow(asked: Constraints, terms: Terms) -> Narrowed:
    """What holds for a request under these terms; `request` where both sides say the same.

    A bound that the key has is hard, whatever the request says of softness, and a floor of the key
    is held against the lower bound of the accuracy, never against the value. What is optimised
    stays as the request alone would have it.
    """
    if not terms.bounded:
        return Narrowed(constraints=asked)
    sides: dict[Bound, Side] = {}

    def stricter(
        bound: Bound, key: float | None, choose: Callable[[float, float], float]
    ) -> float | None:
        own = asked.limit(bound)
        if key is None:
            return own
        found = key if own is None else choose(own, key)
        sides[bound] = "request" if found == own else "key"
        return found

    latency_s = stricter("max_latency", terms.max_latency_s, min)
    cost = stricter("max_cost", terms.max_cost_usd_per_million, min)
    accuracy = stricter("min_accuracy", terms.min_accuracy, max)
    drop = stricter("max_accuracy_drop", terms.max_accuracy_drop_points, min)
    soft = frozenset(BOUNDS) if asked.lenient else asked.soft
    return Narrowed(
        constraints=replace(
            asked,
            max_latency_s=latency_s,
            max_cost_usd_per_million=cost,
            min_accuracy=accuracy,
            accuracy_point=asked.accuracy_point and terms.min_accuracy is None,
            max_accuracy_drop_points=drop,
            soft=soft.difference(sides),
            lenient=False,
            objective=asked.effective_objective,
        ),
        sides=tuple(sides.items()),
    )


def allow_only(asked: Constraints, variants: frozenset[str] | None) -> Constraints:
    """The same, with no other variants than these eligible; None leaves it as it is."""
    if variants is None:
        return asked
    wanted = sorted(variants) if asked.variants is None else asked.variants
    return replace(asked, variants=tuple(name for name in wanted if name in variants))
