"""How far down the ladder of overload the gateway is.

    0 normal           batches only where they pay; each request its best variant
    1 cheaper, and no  policies take cheaper eligible variants by themselves as the queue grows;
      best effort      requests of the last urgency (`u=7`) are refused
    2 full             the least urgent that wait give their place to more urgent ones; the rest
                       is refused

Hard bounds hold on every rung. Time comes in as `now_s`, on one monotonic clock.
"""

BEST_EFFORT = 7
"""The urgency (RFC 9218) of those who are served only while there is room."""

WINDOW_S = 0.5
SHED_SHARE = 0.05
LEAST = 5
"""Pressed: of at least five requests in half a second, more than one in twenty was shed."""

HOLD_S = 1.0
"""A rung is kept for so long, so that it is not left between two bursts."""

HALF = 0.5
"""Or the queue is half full, by number or bytes."""


class Pressure:
    """Counts what was answered and what was shed for lack of time or room."""

    def __init__(self) -> None:
        self._since_s = 0.0
        self._total = 0
        self._shed = 0
        self._pressed_until_s = 0.0

    def count(self, now_s: float, *, shed: bool) -> None:
        """One request, best effort aside, was answered or shed."""
        if now_s - self._since_s > WINDOW_S:
            self._since_s, self._total, self._shed = now_s, 0, 0
        self._total += 1
        self._shed += shed
        if self._total >= LEAST and self._shed > SHED_SHARE * self._total:
            self._pressed_until_s = now_s + HOLD_S

    def rung(self, now_s: float, *, fill_ratio: float) -> int:
        """0, 1 or 2; `fill_ratio` is that of the fuller of the queue's limits."""
        if fill_ratio >= 1:
            self._pressed_until_s = now_s + HOLD_S
            return 2
        if fill_ratio >= HALF:
            self._pressed_until_s = now_s + HOLD_S
        return 1 if now_s < self._pressed_until_s else 0
