"""One timer for the earliest of many deadlines."""

import asyncio
import math
import time
from collections.abc import Callable

STEP_S = 0.001
"""Deadlines that pass this close to one another are looked at together."""


class Expiry:
    """Calls `expire(now_s)` when a deadline passes; it returns the next deadline, or infinity.

    Deadlines are on the monotonic clock. Used from the event loop only.
    """

    def __init__(self, expire: Callable[[float], float]) -> None:
        self._expire = expire
        self._timer: asyncio.TimerHandle | None = None
        self._at_s = math.inf

    def by(self, deadline_s: float) -> None:
        """Look at the latest then."""
        if deadline_s < self._at_s:
            self._set(deadline_s)

    def _set(self, deadline_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at_s = deadline_s
        delay_s = max(STEP_S, deadline_s - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._look)

    def _look(self) -> None:
        self._timer, self._at_s = None, math.inf
        next_s = self._expire(time.monotonic())
        if next_s < math.inf:
            self._set(next_s)
