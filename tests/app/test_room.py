"""Bodies on their way are bounded in all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.refusals import QueueFull
from app.room import SMALL_BYTES, Room

LIMIT = 100 * SMALL_BYTES


@given(st.lists(st.tuples(st.integers(0, 40 * SMALL_BYTES), st.booleans()), max_size=60))
def test_large_bodies_never_take_more_than_the_limit(asked: list[tuple[int, bool]]) -> None:
    room, held = Room(LIMIT), []
    for size, leaves in asked:
        try:
            held.append(room.take(size))
        except QueueFull:
            assert sum(held) + size > LIMIT / 2
        assert sum(held) <= LIMIT
        if leaves and held:
            room.give(held.pop(0))


def test_large_ones_are_refused_while_smaller_ones_still_find_room() -> None:
    room = Room(LIMIT)
    for _ in range(3):
        room.take(20 * SMALL_BYTES)
    with pytest.raises(QueueFull):
        room.take(20 * SMALL_BYTES)
    assert room.take(5 * SMALL_BYTES) == 5 * SMALL_BYTES
    assert room.take(SMALL_BYTES) == 0
    with room.held() as held:
        held.reserve(SMALL_BYTES)
        assert held.size_bytes == 0
        held.reserve(2 * SMALL_BYTES)
        held.reserve(3 * SMALL_BYTES)
        assert held.size_bytes == 4 * SMALL_BYTES
        with pytest.raises(QueueFull):
            held.reserve(30 * SMALL_BYTES)
    room.give(20 * SMALL_BYTES)
    assert room.take(20 * SMALL_BYTES) == 20 * SMALL_BYTES
