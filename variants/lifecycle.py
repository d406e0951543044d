"""The states a variant moves through, as one table.

`serving` states are routable. A variant that failed keeps its reason and its evidence; it is
registered anew under another name, because names are immutable.
"""

from typing import Literal, get_args

from variants.errors import Conflict

State = Literal["registered", "verified", "profiled", "active", "draining", "inactive", "failed"]
STATES: tuple[State, ...] = get_args(State)

TRANSITIONS: dict[State, frozenset[State]] = {
    "registered": frozenset({"verified", "failed"}),
    "verified": frozenset({"profiled", "failed"}),
    "profiled": frozenset({"active", "inactive", "failed"}),
    "active": frozenset({"draining"}),
    "draining": frozenset({"inactive", "active"}),
    "inactive": frozenset({"active"}),
    "failed": frozenset(),
}


def check_transition(name: str, old: State, new: State) -> None:
    """Raise `Conflict` where a variant may not move from `old` to `new`."""
    if new not in TRANSITIONS[old]:
        allowed = ", ".join(sorted(TRANSITIONS[old])) or "nothing: register it under another name"
        raise Conflict(f"variant {name!r} is {old} and cannot become {new}; allowed: {allowed}")
