"""Numbers and sentences for people.

The inside counts seconds; people type and read milliseconds, so only these sentences say `ms`.
"""

import math

from router.constraints import Bound
from router.decision import Reason

SCALE: dict[Bound, tuple[float, str]] = {
    "max_latency": (1000.0, " ms"),
    "max_cost": (1.0, " USD per million"),
    "min_accuracy": (1.0, ""),
    "max_accuracy_drop": (1.0, " points"),
}
"""For each bound with a number: factor from the inner unit to the one shown, and its name."""

CHOICE: dict[Reason, str] = {
    "most_accurate": "is the most accurate in time",
    "cheapest": "is the cheapest in time",
    "fastest": "is predicted to finish first",
    "best_weighted": "has the best weighted score in time",
    "only_feasible": "alone keeps every bound",
    "pinned": "was asked for by name",
    "fallback": "comes closest",
}


def plain(number: float) -> str:
    """The number without an exponent or trailing zeros, at most six fractional digits."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


def outward(bound: Bound, found: float) -> float:
    """The tightest limit that people would type and that `found` keeps.

    In the unit shown: up to three significant digits with at most three fractional ones, which is
    what a structured-field decimal can carry (RFC 9651 §3.3.2); a floor goes down to three
    fractional digits. What is not finite stays as it is.
    """
    if not math.isfinite(found):
        return found
    factor, _ = SCALE[bound]
    shown = found * factor
    if bound == "min_accuracy":
        steps = math.floor(shown * 1000)
        while steps / 1000 > found:
            steps -= 1
        return steps / 1000
    digits = 3 if shown < 1 else max(0, 2 - math.floor(math.log10(shown)))
    scale = 10.0**digits
    steps = math.ceil(shown * scale)
    while steps / scale / factor < found:
        steps += 1
    return steps / scale / factor


def amount(bound: Bound, value: float) -> str:
    """The value in the unit shown, e.g. `18.2 ms`."""
    factor, unit = SCALE[bound]
    return plain(value * factor) + unit


def relaxation(bound: Bound, limit: float, needed: float, variant: str) -> str:
    """E.g. `max_latency 50 → 63 ms makes int8 feasible`."""
    factor, _ = SCALE[bound]
    return f"{bound} {plain(limit * factor)} → {amount(bound, needed)} makes {variant} feasible"
