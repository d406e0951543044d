"""What a policy sees when a worker is free, and what it answers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from router.candidate import Candidate
from router.fleet import Queued, WorkerView
from router.forecast import Forecast
from router.kind import Kind
from router.outlook import Options, Outlook

__all__ = ["Choice", "Options", "View"]


class View(NamedTuple):
    """The queue as the free worker can serve it, never empty. Read only: the lists are live.

    `queue` is in order (urgency, deadline, arrival, id) and holds only requests that have an
    eligible variant loaded here and, where they would be dropped when late, could still be in
    time here. `kinds` and `due_s` run beside it; `due_s` is the deadline, infinite where there
    is none or where even the fastest variant may be late, which then is all that can be done.
    `counts` tells how many of each kind wait. `forecast` is None where nothing is foretold.
    """

    queue: Sequence[Queued]
    kinds: Sequence[Kind]
    due_s: Sequence[float]
    counts: Mapping[Kind, int]
    outlook: Outlook
    others: Sequence[WorkerView]
    now_s: float
    overhead_s: float
    max_batch: int
    forecast: Forecast | None = None

    @property
    def options(self) -> Sequence[Options]:
        """What each request can expect, beside the queue."""
        found = (self.outlook.options(kind) for kind in self.kinds)
        return tuple(options for options in found if options is not None)

    @property
    def head(self) -> Options:
        """What the first request can expect."""
        options = self.outlook.options(self.kinds[0])
        assert options is not None
        return options

    @property
    def present(self) -> Iterable[Kind]:
        """Every kind that waits, once."""
        return self.counts if len(self.counts) <= len(self.kinds) else set(self.kinds)

    @property
    def candidates(self) -> Mapping[str, Candidate]:
        """Every variant by name."""
        return self.outlook.candidates

    @property
    def loaded(self) -> frozenset[str]:
        """The variants that are loaded here."""
        return self.outlook.loaded

    def only(self, indexes: Sequence[int]) -> "View":
        """The same with these requests alone, in the same order."""
        return self._replace(
            queue=[self.queue[index] for index in indexes],
            kinds=[self.kinds[index] for index in indexes],
            due_s=[self.due_s[index] for index in indexes],
        )


class Choice(NamedTuple):
    """Run these requests (ids, the one it is chosen for first) as one batch on this variant."""

    variant: str
    requests: tuple[int, ...]
