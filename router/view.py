"""What a policy sees when a worker is free, and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router.candidate import Candidate
from router.fleet import Queued, WorkerView


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Options:
    """What requests alike in eligible variants, rows and percentile can expect on this worker.

    `typical_s` (median) and `tail_s` (at `percentile`) hold the service time of one such request
    alone, in seconds, for each eligible variant that is loaded here; infinite where unmeasured.
    `fastest` is the one with the smallest tail. Shared between alike requests and compared by
    identity, so that policies can look things up by it.
    """

    rows: int
    percentile: int
    typical_s: Mapping[str, float]
    tail_s: Mapping[str, float]
    fastest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """The queue as the free worker can serve it, never empty.

    `queue` is in order (urgency, deadline, arrival, id) and holds only requests that have an
    eligible variant loaded here and, where they would be dropped when late, could still be in
    time here. `options` and `due_s` run beside it; `due_s` is the deadline, infinite where there
    is none or where even the fastest variant may be late, which then is all that can be done.
    """

    queue: tuple[Queued, ...]
    options: tuple[Options, ...]
    due_s: tuple[float, ...]
    candidates: Mapping[str, Candidate]
    loaded: frozenset[str]
    others: Sequence[WorkerView]
    now_s: float
    overhead_s: float
    max_batch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Run these requests (ids, the head of the queue first) as one batch on this variant."""

    variant: str
    requests: tuple[int, ...]
