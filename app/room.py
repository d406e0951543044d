"""How many bytes of bodies may be on their way at once, so that many large ones cannot fill memory.

What has arrived and waits is counted by the engine; this is what arrives.
"""

import contextlib
from collections.abc import Iterator

from app.engine.engine import BODY_RATIO, SCARCE_RATIO
from app.engine.refusals import QueueFull

SMALL_BYTES = 1 << 16
"""Bodies up to this size are not counted: the number of connections bounds them."""

RETRY_S = 1.0


class Room:
    """Bytes that are taken and given back. Used from the event loop only."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._taken_bytes = 0

    def take(self, size_bytes: int) -> int:
        """Take room for a body and return what must be given back.

        Raises `QueueFull` where there is none. Once room is scarce, large bodies are refused first,
        as in the engine's queues.
        """
        if size_bytes <= SMALL_BYTES:
            return 0
        free_bytes = self._limit_bytes - self._taken_bytes
        scarce = free_bytes < SCARCE_RATIO * self._limit_bytes
        if size_bytes > (BODY_RATIO * free_bytes if scarce else free_bytes):
            raise QueueFull(RETRY_S)
        self._taken_bytes += size_bytes
        return size_bytes

    def give(self, size_bytes: int) -> None:
        """Give back what `take` returned."""
        self._taken_bytes -= size_bytes

    @contextlib.contextmanager
    def held(self) -> "Iterator[Held]":
        """Room for one body whose size may show only as it arrives, given back at the end."""
        held = Held(self)
        try:
            yield held
        finally:
            self.give(held.size_bytes)


class Held:
    """What one body has taken."""

    def __init__(self, room: Room) -> None:
        self.size_bytes = 0
        self._room = room

    def reserve(self, size_bytes: int) -> None:
        """Have room for so many bytes in all. Raises `QueueFull` where there is none."""
        if size_bytes > max(SMALL_BYTES, self.size_bytes):
            before_bytes, self.size_bytes = self.size_bytes, 0
            self._room.give(before_bytes)
            self.size_bytes = self._room.take(max(size_bytes, 2 * before_bytes))
