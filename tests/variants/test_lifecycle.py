"""The states a variant moves through."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from variants.errors import Conflict
from variants.lifecycle import STATES, TRANSITIONS, State, check_transition


def reachable(start: State) -> set[State]:
    seen: set[State] = set()
    waiting: list[State] = [start]
    while waiting:
        state = waiting.pop()
        if state not in seen:
            seen.add(state)
            waiting.extend(TRANSITIONS[state])
    return seen


def test_every_state_is_in_the_table_and_reachable_from_registered() -> None:
    assert set(TRANSITIONS) == set(STATES) == reachable("registered")


def test_failed_is_the_only_end() -> None:
    assert [state for state in STATES if not TRANSITIONS[state]] == ["failed"]


def test_no_variant_is_active_before_it_was_verified_and_profiled() -> None:
    def paths(state: State, path: tuple[State, ...]) -> Iterable[tuple[State, ...]]:
        if state == "active":
            yield path
            return
        for following in TRANSITIONS[state]:
            if following not in path:
                yield from paths(following, (*path, following))

    for path in paths("registered", ("registered",)):
        assert path[:3] == ("registered", "verified", "profiled")


@given(st.sampled_from(STATES), st.sampled_from(STATES))
def test_a_move_outside_the_table_is_refused_with_what_is_allowed(old: State, new: State) -> None:
    if new in TRANSITIONS[old]:
        check_transition("int8", old, new)
        return
    with pytest.raises(Conflict, match=f"'int8' is {old} and cannot become {new}") as refusal:
        check_transition("int8", old, new)
    assert all(state in str(refusal.value) for state in TRANSITIONS[old])
