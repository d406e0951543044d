"""Peers that try keys that are not valid: told 401, and 429 once they try too many.

Only failures are counted, so a valid key is served whoever else shares its address, and a request
that carries one costs nothing here.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from app.errors import RateLimited, Unauthenticated
from app.rate import Rate

PEERS = 4096
"""So many are remembered, the latest ones. An older one starts afresh."""


class BadKeys:
    """Counts failures by the address of the peer; so many a second are none too many."""

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._peers: OrderedDict[str, Rate] = OrderedDict()

    def judged(self, client: tuple[str, int] | None, error: Unauthenticated) -> Exception:
        """Count a failure: the same error, or `RateLimited` for a peer with too many of them."""
        wait_s = self.count("" if client is None else client[0])
        if wait_s == 0.0:
            return error
        message = "too many requests without a valid key from this address"
        return RateLimited(message, retry_after_s=wait_s)

    def count(self, peer: str) -> float:
        """Count one failure: 0, or the seconds to wait for a peer with too many of them."""
        rate = self._peers.pop(peer, None) or Rate(self._per_s)
        self._peers[peer] = rate
        if len(self._peers) > PEERS:
            self._peers.popitem(last=False)
        return rate.take(self._clock())

    def __len__(self) -> int:
        return len(self._peers)
