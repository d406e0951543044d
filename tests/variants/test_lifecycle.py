"""The states a variant moves through."""

from collections.abc import Iterable
from itertools import product

import pytest

from variants.errors import Conflict
from variants.lifecycle import (
    CANDIDATES,
    INTERRUPTED,
    STATES,
    TRANSITIONS,
    State,
    check_transition,
)

MOVES = """
registered verified failed
verified   profiled failed
profiled   shadow canary active inactive failed
shadow     canary active inactive
canary     shadow active inactive
active     draining
draining   active inactive
inactive   shadow canary active retired
retired
failed     retired
"""
"""What the documentation promises, spelled out once more."""

SETTLED = {"shadow", "canary", "active", "inactive", "retired", "failed"}
"""Where a variant may stay, and where a restart leaves it."""


def reachable(start: State) -> set[State]:
    seen: set[State] = set()
    waiting: list[State] = [start]
    while waiting:
        state = waiting.pop()
        if state not in seen:
            seen.add(state)
            waiting.extend(TRANSITIONS[state])
    return seen


def paths(goal: State) -> Iterable[tuple[State, ...]]:
    waiting: list[tuple[State, ...]] = [("registered",)]
    while waiting:
        path = waiting.pop()
        if path[-1] == goal:
            yield path
        else:
            waiting += [(*path, state) for state in TRANSITIONS[path[-1]] if state not in path]


def test_the_table_is_the_one_that_is_promised() -> None:
    promised = {line.split()[0]: set(line.split()[1:]) for line in MOVES.strip().splitlines()}
    assert {state: set(after) for state, after in TRANSITIONS.items()} == promised


def test_every_state_is_in_the_table_and_reachable_from_registered() -> None:
    assert set(TRANSITIONS) == set(STATES) == reachable("registered")


def test_retired_is_the_only_end_and_every_state_leads_to_it() -> None:
    assert [state for state in STATES if not TRANSITIONS[state]] == ["retired"]
    assert all("retired" in reachable(state) for state in STATES)


@pytest.mark.parametrize("goal", sorted({"active", *CANDIDATES}))
def test_no_live_request_is_seen_before_verified_and_profiled(goal: State) -> None:
    found = list(paths(goal))
    assert found
    for path in found:
        assert path[:3] == ("registered", "verified", "profiled")


def test_what_a_stop_interrupts_goes_where_it_may_go_and_may_stay() -> None:
    assert set(INTERRUPTED) == set(STATES) - SETTLED
    for old, new in INTERRUPTED.items():
        check_transition("int8", old, new)
        assert new in SETTLED


@pytest.mark.parametrize(("old", "new"), list(product(STATES, STATES)))
def test_a_move_outside_the_table_is_refused_with_what_is_allowed(old: State, new: State) -> None:
    if new in TRANSITIONS[old]:
        check_transition("int8", old, new)
        return
    with pytest.raises(Conflict, match=f"'int8' is {old} and cannot become {new}") as refusal:
        check_transition("int8", old, new)
    assert all(state in str(refusal.value) for state in TRANSITIONS[old])
