"""Reference counts that keep a variant open while any admitted request may still use it."""

import asyncio
from collections import Counter
from collections.abc import Iterable


class Leases:
    """Counts by variant key. Used from the event loop only."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._waiters: dict[str, asyncio.Future[None]] = {}

    def acquire(self, keys: Iterable[str]) -> None:
        """Hold every key once more."""
        for key in keys:
            self._counts[key] += 1

    def release(self, keys: Iterable[str]) -> None:
        """Give back what `acquire` took."""
        for key in keys:
            self._counts[key] -= 1
            if self._counts[key] <= 0:
                del self._counts[key]
                if waiter := self._waiters.pop(key, None):
                    waiter.set_result(None)

    async def drained(self, key: str) -> None:
        """Return once nobody holds the key."""
        if self._counts[key] > 0:
            loop = asyncio.get_running_loop()
            await asyncio.shield(self._waiters.setdefault(key, loop.create_future()))
