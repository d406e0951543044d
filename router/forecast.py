"""What is to arrive, by what has arrived: the rate of each kind, and how far ahead to look."""

from collections import Counter, deque
from collections.abc import Mapping

from router.kind import Kind

AHEAD = 2.0
"""The horizon, in mean times from arrival to deadline: longer for those who can wait for longer."""

WINDOWS = 3.0
"""Rates are taken over so many horizons of the past."""

LEAST = 8
"""So many arrivals are remembered however long ago they were."""

MOST = 4096
"""And never more, or minutes of a high rate would fill the memory."""

MEMORY = 50
"""The mean is taken over about so many arrivals."""


class Forecast:
    """Arrivals of the recent past. Times come in as `now_s`, on one monotonic clock.

    Work can be put off until its deadline, and what arrives within the horizon competes with what
    waits now.
    """

    def __init__(self) -> None:
        self._slack_s = 0.0
        self._recent: deque[tuple[float, Kind]] = deque()
        self._counts: Counter[Kind] = Counter()
        self._began_s = 0.0
        self._seen = 0

    def arrived(self, now_s: float, kind: Kind, slack_s: float) -> None:
        """Take in one arrival that must be answered within `slack_s` (finite)."""
        if not self._seen:
            self._began_s = now_s
        self._seen = min(self._seen + 1, MEMORY)
        self._slack_s += (slack_s - self._slack_s) / self._seen
        self._recent.append((now_s, kind))
        self._counts[kind] += 1
        if len(self._recent) > MOST:
            self._began_s, _ = self._recent[0]
            self._forget()

    @property
    def horizon_s(self) -> float:
        """How far ahead to look."""
        return AHEAD * self._slack_s

    def expected(self, now_s: float) -> tuple[Mapping[Kind, int], float]:
        """Recent arrivals by kind, and the number to expect within the horizon for each of them."""
        window_s = WINDOWS * self.horizon_s
        recent = self._recent
        start_s = max(now_s - window_s, self._began_s)
        while len(recent) > LEAST and recent[0][0] < start_s:
            self._forget()
        if not recent:
            return self._counts, 0.0
        span_s = now_s - min(start_s, recent[0][0])
        if len(recent) < LEAST:
            span_s = max(span_s, window_s)
        return self._counts, self.horizon_s / span_s if span_s > 0 else 0.0

    def _forget(self) -> None:
        """Drop the oldest arrival."""
        _, kind = self._recent.popleft()
        self._counts[kind] -= 1
        if not self._counts[kind]:
            del self._counts[kind]
