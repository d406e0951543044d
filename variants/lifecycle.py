"""The states a variant moves through, as one table.

    registered → verified → profiled → shadow → canary → active → draining → inactive → retired

`active` answers every request that it suits, `canary` a share of them, `shadow` none: it runs on
copies. A `retired` variant never comes back and its artifact may be swept; one that `failed` keeps
its reason and its evidence. Names are immutable, so either is registered anew under another name.
"""

from typing import Literal, get_args

from variants.errors import Conflict

State = Literal[
    "registered",
    "verified",
    "profiled",
    "shadow",
    "canary",
    "active",
    "draining",
    "inactive",
    "retired",
    "failed",
]
STATES: tuple[State, ...] = get_args(State)

TRANSITIONS: dict[State, frozenset[State]] = {
    "registered": frozenset({"verified", "failed"}),
    "verified": frozenset({"profiled", "failed"}),
    "profiled": frozenset({"shadow", "canary", "active", "inactive", "failed"}),
    "shadow": frozenset({"canary", "active", "inactive"}),
    "canary": frozenset({"shadow", "active", "inactive"}),
    "active": frozenset({"draining"}),
    "draining": frozenset({"inactive", "active"}),
    "inactive": frozenset({"shadow", "canary", "active", "retired"}),
    "retired": frozenset(),
    "failed": frozenset({"retired"}),
}

CANDIDATES: frozenset[State] = frozenset({"shadow", "canary"})
"""A variant on its way in. A model has at most one, so that what is seen of it is its own doing."""

INTERRUPTED: dict[State, State] = {
    "registered": "failed",
    "verified": "failed",
    "profiled": "inactive",
    "draining": "inactive",
}
"""Where a variant goes that a stop of the gateway caught between two states."""


def check_transition(name: str, old: State, new: State) -> None:
    """Raise `Conflict` where a variant may not move from `old` to `new`."""
    if new not in TRANSITIONS[old]:
        allowed = ", ".join(sorted(TRANSITIONS[old])) or "nothing: register it under another name"
        raise Conflict(f"variant {name!r} is {old} and cannot become {new}; allowed: {allowed}")
