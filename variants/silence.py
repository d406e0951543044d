"""Whether a server answers at all, as those found who waited for it in vain.

A network that swallows what is sent closes nothing and refuses nothing. Who waits for an answer
gives up in the end; after that one at a time tries whether the server is back, and everybody else
is told at once, so that nobody stands in a line of waits.
"""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from variants.errors import GearshiftError

PAUSE_S = 0.4
"""Between two tries."""


class Silence:
    """What was open when `count` grew is not to be trusted any more. `told` is raised meanwhile."""

    def __init__(self, told: type[GearshiftError], words: str) -> None:
        self._told, self._words = told, words
        self.count = 0
        self.silent = False
        self._trying = threading.Lock()
        self._thread: int | None = None
        self._again_s = 0.0
        self._answered_s = -math.inf

    @property
    def mine(self) -> bool:
        """Whether it is this thread that tries."""
        return self._thread == threading.get_ident()

    def begin(self, since_s: float) -> None:
        """An answer was waited for in vain, since this moment of `time.monotonic()`.

        Where another one has had an answer meanwhile, it was the connection that was dead.
        """
        if since_s >= self._answered_s:
            self.count += 1
            self.silent = True

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Reach the server within this; where that does not raise, it answers.

        Raises `told` where it is silent and another one tries, or did just now.
        """
        if not self.silent:
            yield
            self._answered_s = time.monotonic()
            return
        if time.monotonic() < self._again_s or not self._trying.acquire(blocking=False):
            raise self._told(self._words)
        self._thread = threading.get_ident()
        try:
            yield
            self.silent, self._answered_s = False, time.monotonic()
        finally:
            self._thread = None
            self._again_s = time.monotonic() + PAUSE_S
            self._trying.release()
