"""What one request asks for."""

import math
from dataclasses import dataclass
from typing import Literal

from router.weights import Weights

ObjectiveName = Literal["accuracy", "cost", "latency"]
Objective = ObjectiveName | Weights

Bound = Literal["max_latency", "max_cost", "min_accuracy", "max_accuracy_drop", "variants"]
"""Names of the bounds in explanations and in `Constraints.soft`."""

BOUNDS: tuple[Bound, ...] = (
    "max_latency",
    "max_cost",
    "min_accuracy",
    "max_accuracy_drop",
    "variants",
)
"""Every bound, in the order that breaks ties between them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Constraints:
    """Bounds that a variant must keep, and what to optimise among those that keep them.

    `max_latency_s` counts from arrival to reply and is compared with the `latency_percentile`
    (50 to 99) of the prediction. `min_accuracy` is compared with the lower 95 % bound, or with
    the value where `accuracy_point` is set. `max_accuracy_drop_points` is in percentage points
    below the reference, value against value. `variants` is an allow-list; one name pins, and it
    is never softened. `lenient` softens every other bound. `urgency` is RFC 9218's: 0 is served
    first, 7 last. `cascade` asks for a cascade where one keeps every bound.

    Raises `ValueError` for a bound that is negative or not finite, and for a percentile or
    urgency out of range.
    """

    max_latency_s: float | None = None
    latency_percentile: int = 95
    max_cost_usd_per_million: float | None = None
    min_accuracy: float | None = None
    accuracy_point: bool = False
    max_accuracy_drop_points: float | None = None
    soft: frozenset[Bound] = frozenset()
    objective: Objective | None = None
    variants: tuple[str, ...] | None = None
    lenient: bool = False
    urgency: int = 3
    cascade: bool = False

    def __post_init__(self) -> None:
        for bound in BOUNDS:
            limit = self.limit(bound)
            if limit is not None and not (math.isfinite(limit) and limit >= 0):
                raise ValueError(f"{bound} must be finite and at least 0, not {limit}")
        if not 50 <= self.latency_percentile <= 99:
            raise ValueError(f"latency_percentile must be 50 to 99, not {self.latency_percentile}")
        if not 0 <= self.urgency <= 7:
            raise ValueError(f"urgency must be 0 to 7, not {self.urgency}")

    @property
    def effective_objective(self) -> Objective:
        """The stated objective, or the first of accuracy, cost, latency left unconstrained.

        Accuracy where all three are constrained.
        """
        if self.objective is not None:
            return self.objective
        if self.min_accuracy is None and self.max_accuracy_drop_points is None:
            return "accuracy"
        if self.max_cost_usd_per_million is None:
            return "cost"
        return "latency" if self.max_latency_s is None else "accuracy"

    def limit(self, bound: Bound) -> float | None:
        """The bound's number in its own unit (seconds, dollars per million, ratio, points).

        None where the bound is not set, and for the allow-list, which has no number.
        """
        match bound:
            case "max_latency":
                return self.max_latency_s
            case "max_cost":
                return self.max_cost_usd_per_million
            case "min_accuracy":
                return self.min_accuracy
            case "max_accuracy_drop":
                return self.max_accuracy_drop_points
            case "variants":
                return None

    def is_hard(self, bound: Bound) -> bool:
        """Whether this bound, where set, may never be broken."""
        return bound == "variants" or not (self.lenient or bound in self.soft)
