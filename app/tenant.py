"""What a gateway keeps in memory of one key: its rate, its money, and what it used."""

import math
import time
from collections.abc import Callable
from datetime import UTC, date, datetime

from app.errors import BudgetSpent, RateLimited
from app.rate import Rate
from variants.terms import Terms

SHARES = 32
"""A gateway sets aside this part of a day's dollars at a time: so much a crash may cost the key."""


class Budget:
    """Dollars that were set aside for one key and one day, and what is left of them here.

    Money is set aside in the database before it is spent (`app/ledger.py`), never the other way
    round: what is lost with a gateway was not spent. Used from the event loop only. `wake` has more
    set aside soon. A new day begins with the first dollars of it; what was left of the day before
    is in `over`, to be given back, for the clock may be set back.
    """

    __slots__ = ("day", "left_usd", "over", "per_day_usd", "spent_out", "wake", "wanted_usd")

    def __init__(self, per_day_usd: float, day: date) -> None:
        self.per_day_usd = per_day_usd
        self.day = day
        self.left_usd = 0.0
        self.wanted_usd = 0.0
        self.spent_out = False
        self.wake: Callable[[], None] | None = None
        self.over: list[tuple[date, float]] = []

    def hold(self, usd: float) -> "Bill":
        """Take it out until the bill is settled. Raises `BudgetSpent`."""
        self.check(usd)
        self.left_usd -= usd
        return Bill(self, self.day, usd)

    def check(self, usd: float = 0.0) -> None:
        """Raise `BudgetSpent` where not so much is left, or nothing."""
        if usd > self.left_usd or self.left_usd <= 0.0:
            self.wanted_usd = max(self.wanted_usd, usd)
            if self.wake is not None and not self.spent_out:
                self.wake()
            raise BudgetSpent(
                f"the {self.per_day_usd:g} US dollars of this key's day are spent"
                if self.spent_out
                else "more of this key's dollars are being set aside",
                retry_after_s=_until_tomorrow_s() if self.spent_out else 1.0,
            )

    @property
    def low(self) -> bool:
        """Whether more should be set aside."""
        return self.left_usd < max(self._share_usd / 2, self.wanted_usd)

    def wish_usd(self, day: date) -> float:
        """How much more, on this day."""
        left_usd = self.left_usd if day == self.day else 0.0
        return max(self._share_usd, self.wanted_usd) - left_usd

    @property
    def _share_usd(self) -> float:
        return self.per_day_usd / SHARES

    def close(self) -> None:
        """Have what is left given back."""
        if self.left_usd:
            self.over.append((self.day, self.left_usd))
        self.left_usd = 0.0

    def grant(self, usd: float, *, wish_usd: float, day: date) -> None:
        """So much of what was wished for was set aside; on another day, count for that one."""
        if day != self.day:
            self.close()
            self.day = day
        self.left_usd += usd
        self.spent_out = usd < wish_usd
        self.wanted_usd = 0.0


class Bill:
    """What is held back for one request until its cost is known."""

    __slots__ = ("_budget", "_day", "_held_usd")

    def __init__(self, budget: Budget, day: date, held_usd: float) -> None:
        self._budget = budget
        self._day = day
        self._held_usd = held_usd

    def settle(self, cost_usd: float) -> None:
        """It has cost so much. On the next day that is the old day's affair."""
        if self._day == self._budget.day:
            self._budget.left_usd += self._held_usd - cost_usd


class Tenant:
    """One key at work. What is counted is added to the database once a second.

    Who has used something is in `owing` from then on, which may outlive the key.
    """

    __slots__ = ("_owing", "budget", "id", "rate", "requests", "usd")

    def __init__(self, id: str, terms: Terms, owing: "set[Tenant] | None" = None) -> None:
        self.id = id
        self._owing = set() if owing is None else owing
        self.rate = None if terms.requests_per_s is None else Rate(terms.requests_per_s)
        self.budget = None if terms.usd_per_day is None else Budget(terms.usd_per_day, today())
        self.requests = 0
        self.usd = 0.0

    def enter(self, *, paid: bool = False) -> None:
        """Count one request against the rate; one that is paid for needs dollars, too.

        Raises `RateLimited` or `BudgetSpent`.
        """
        if self.rate is not None:
            wait_s = self.rate.take(time.monotonic())
            if wait_s > 0.0:
                raise RateLimited(
                    f"the key may send {self.rate.quota} requests in {self.rate.window_s} s",
                    retry_after_s=wait_s,
                )

        if paid and self.budget is not None:
            self.budget.check()

    def pay(self, usd: float) -> None:
        """Count one request that has cost so much, from the event loop; its key may have ended."""
        self.requests += 1
        self.usd += usd
        self._owing.add(self)

    def lines(self) -> bytes:
        """The reply's headers about the rate, as lines; empty without one."""
        return b"" if self.rate is None else self.rate.lines(time.monotonic()).encode()


def today() -> date:
    """The day that money is counted for (UTC)."""
    return datetime.now(UTC).date()


def _until_tomorrow_s() -> float:
    return math.ceil(86400 - time.time() % 86400)
