"""What a key may do beyond its scopes: models, bounds, rate and money.

Terms(allow=allowed(["fashion", "sentiment/int8"]), requests_per_s=50, usd_per_day=2)
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from variants.errors import Invalid
from variants.spec import NAME

_ALLOWED = re.compile(rf"({NAME})(?:/({NAME}))?")

Allowed = Mapping[str, frozenset[str] | None]
"""Models by name, each with the variants that are allowed of it; None means all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What a key may do. None means no limit.

    `allow` names the models that the key may know of. The bounds hold for each request, in seconds,
    dollars per million inferences, ratio (held against the lower 95 % bound) and percentage points.
    `requests_per_s` is per gateway; `usd_per_day` (UTC) holds for all gateways on one database
    together. Raises `Invalid` for a number that is negative, not finite or out of range.
    """

    allow: Allowed | None = None
    max_latency_s: float | None = None
    max_cost_usd_per_million: float | None = None
    min_accuracy: float | None = None
    max_accuracy_drop_points: float | None = None
    requests_per_s: float | None = None
    usd_per_day: float | None = None

    def __post_init__(self) -> None:
        for name in NUMBERS:
            value: float | None = getattr(self, name)
            least = 0.001 if name in ("max_latency_s", "requests_per_s") else 0.0
            if value is not None and not (math.isfinite(value) and value >= least):
                raise Invalid(f"{name} is {value}; a number of at least {least:g}", field=name)

    @property
    def bounded(self) -> bool:
        """Whether any bound narrows what a request asks for."""
        return any(getattr(self, name) is not None for name in BOUNDS)

    def allows(self, model: str, variant: str | None = None) -> bool:
        """Whether the key may know of this model, and of this variant of it."""
        if self.allow is None:
            return True
        if model not in self.allow:
            return False
        variants = self.allow[model]
        return variant is None or variants is None or variant in variants

    def variants_of(self, model: str) -> frozenset[str] | None:
        """The allowed variants of an allowed model; None for all of them."""
        return None if self.allow is None else self.allow.get(model)


BOUNDS = (
    "max_latency_s",
    "max_cost_usd_per_million",
    "min_accuracy",
    "max_accuracy_drop_points",
)
NUMBERS = (*BOUNDS, "requests_per_s", "usd_per_day")
UNLIMITED = Terms()


def allowed(names: Iterable[str]) -> Allowed:
    """The models and variants that names such as `fashion` and `fashion/int8` stand for.

    A model without a variant allows all of its variants. Raises `Invalid` for what is no name.
    """
    found: dict[str, frozenset[str] | None] = {}
    for name in names:
        match = _ALLOWED.fullmatch(name)
        if match is None:
            raise Invalid(f"allow: {name[:80]!r} is neither MODEL nor MODEL/VARIANT", field="allow")
        model, variant = match[1], match[2]
        before = found.get(model, frozenset())
        found[model] = None if variant is None or before is None else before | {variant}
    return found


def names(allow: Allowed) -> list[str]:
    """What `allowed` reads, sorted."""
    return sorted(
        model if variant is None else f"{model}/{variant}"
        for model, variants in allow.items()
        for variant in ([None] if variants is None else sorted(variants))
    )
