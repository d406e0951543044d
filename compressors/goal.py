"""What a search is for: a floor under the accuracy and the number to make small.

    goal.parse("accuracy>=ref-1pp, minimise=latency")
    goal.parse("accuracy>=0.9, minimise=size")

The accuracy that counts is the selection split's; `pp` are percentage points below the reference.
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from variants.errors import Invalid

Quantity = Literal["latency", "size", "memory"]
_PART = re.compile(
    r"(?:accuracy\s*>=\s*(?:ref\s*-\s*(?P<drop>[0-9.]+)\s*pp|(?P<ref>ref)|(?P<floor>[0-9.]+)))"
    r"|(?:minimise\s*=\s*(?P<minimise>\w+))"
)
_DURATION = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>s|m|h)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """`max_drop`: how far below the reference, from 0 to 1; `min_accuracy`: a floor of its own."""

    minimise: Quantity
    max_drop: float | None = None
    min_accuracy: float | None = None

    def floor(self, reference: float) -> float:
        """The lowest accuracy that will do, given the reference's; 0 where any will."""
        floors = [self.min_accuracy or 0.0]
        if self.max_drop is not None:
            floors.append(reference - self.max_drop)
        return max(floors)


def parse(text: str) -> Goal:
    """The goal in a search's words. Raises `Invalid` naming the part that is wrong."""
    minimise: Quantity | None = None
    max_drop: float | None = None
    min_accuracy: float | None = None
    for part in (part.strip() for part in text.split(",")):
        match = _PART.fullmatch(part)
        if match is None:
            raise _wrong(part, "write 'accuracy>=ref-1pp', 'accuracy>=0.9' or 'minimise=latency'")
        if (name := match["minimise"]) is not None:
            if name not in get_args(Quantity):
                raise _wrong(part, f"minimise is one of {', '.join(get_args(Quantity))}")
            minimise = next(q for q in get_args(Quantity) if q == name)
        elif match["floor"] is not None:
            min_accuracy = _number(part, match["floor"], 1)
        else:
            max_drop = _number(part, match["drop"] or "0", 100) / 100
    if minimise is None:
        raise _wrong(text, f"say what to minimise: {', '.join(get_args(Quantity))}")
    return Goal(minimise=minimise, max_drop=max_drop, min_accuracy=min_accuracy)


def seconds(text: str) -> float:
    """A duration such as `90s`, `30m` or `1.5h`, in seconds. Raises `Invalid`."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not float(match["number"]):
        raise Invalid(f"budget {text!r}: write a positive number with s, m or h, such as 30m")
    return float(match["number"]) * _SECONDS[match["unit"]]


def _number(part: str, text: str, highest: float) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise _wrong(part, f"{text!r} is no number") from error
    if value > highest:
        raise _wrong(part, f"{value:g} is more than {highest:g}")
    return value


def _wrong(part: str, why: str) -> Invalid:
    return Invalid(f"search {part!r}: {why}", field="search")
