"""The queue of one model, always in order, with the kind of each request beside it."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from router.fleet import Queued, queue_order
from router.kind import Kind, Kinds


class Waiting:
    """Requests in order. `requests`, `kinds` and `deadlines_s` run side by side; read only.

    `counts` tells how many of each kind wait. Adding and removing cost little beside the length.
    """

    def __init__(
        self, requests: Iterable[Queued] = (), *, order: Callable[[Queued], Any] = queue_order
    ) -> None:
        self.requests: list[Queued] = []
        self.kinds: list[Kind] = []
        self.deadlines_s: list[float] = []
        self.counts: Counter[Kind] = Counter()
        self._order = order
        self._keys: list[Any] = []
        self._by_id: dict[int, Queued] = {}
        self._kinds = Kinds()
        self._urgencies: Counter[int] = Counter()
        for request in requests:
            self.add(request)

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[Queued]:
        return iter(self.requests)

    def __contains__(self, id: object) -> bool:
        return id in self._by_id

    @property
    def rows(self) -> int:
        """Rows of all requests together."""
        return sum([kind.rows * count for kind, count in self.counts.items()])

    @property
    def by_deadline(self) -> bool:
        """Whether `deadlines_s` rises, as it does where all are equally urgent."""
        return self._order is queue_order and len(self._urgencies) <= 1

    def add(self, request: Queued) -> Kind:
        """Put a request in its place; returns its kind."""
        key = self._order(request)
        at = bisect_left(self._keys, key)
        kind = self._kinds.of(
            request.eligible,
            request.rows,
            request.percentile,
            request.objective,
            request.urgency,
        )
        self._keys.insert(at, key)
        self.requests.insert(at, request)
        self.kinds.insert(at, kind)
        self.deadlines_s.insert(at, request.deadline_s)
        self.counts[kind] += 1
        self._by_id[request.id] = request
        self._urgencies[request.urgency] += 1
        return kind

    def remove(self, id: int) -> Queued:
        """Take a request out. Raises `KeyError` for one that does not wait."""
        request = self._by_id.pop(id)
        at = bisect_left(self._keys, self._order(request))
        kind = self.kinds.pop(at)
        del self._keys[at], self.requests[at], self.deadlines_s[at]
        self.counts[kind] -= 1
        if not self.counts[kind]:
            del self.counts[kind]
        self._urgencies[request.urgency] -= 1
        if not self._urgencies[request.urgency]:
            del self._urgencies[request.urgency]
        return request
