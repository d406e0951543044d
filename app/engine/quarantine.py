"""Variants that broke their workers again and again, and may not do so until they are activated."""

from collections import deque

BREAKS = 3
WINDOW_S = 300.0
WORDS = f"quarantined: it broke its worker {BREAKS} times; activate it to retry"


class Quarantine:
    """`keys` are those of the variants in it. Times come in as `now_s`, on one monotonic clock."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self._breaks: dict[str, deque[float]] = {}

    def broke(self, key: str, now_s: float) -> bool:
        """Count a worker broken by this variant; whether that has put it in quarantine."""
        breaks = self._breaks.setdefault(key, deque(maxlen=BREAKS))
        breaks.append(now_s)
        if key in self.keys or len(breaks) < BREAKS or now_s - breaks[0] > WINDOW_S:
            return False
        self.keys.add(key)
        return True

    def forgive(self, key: str) -> None:
        """It works: what it broke before counts no more."""
        self._breaks.pop(key, None)
