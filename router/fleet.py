"""The load that a choice is made under: workers and the requests that wait.

Named tuples, since they are made for every request: a frozen dataclass takes six times as long.
"""

from operator import attrgetter
from typing import NamedTuple

from router.constraints import Objective


class WorkerView(NamedTuple):
    """A live worker: when it is free, and the variants it has loaded.

    `free_at_s` is absolute, on the same clock as every `now_s`; in the past means idle.
    """

    id: int
    free_at_s: float
    loaded: frozenset[str]


class Queued(NamedTuple):
    """A request that waits with the variants that were found eligible at admission.

    Times are absolute; `deadline_s` is infinite where the caller set none. `drop_late` is False
    where the latency bound is soft: such work is served late rather than dropped. `percentile`
    is the quantile of the prediction that must meet the deadline.
    """

    id: int
    arrival_s: float
    deadline_s: float
    drop_late: bool
    urgency: int
    rows: int
    eligible: tuple[str, ...]
    objective: Objective
    percentile: int


queue_order = attrgetter("urgency", "deadline_s", "arrival_s", "id")
"""Sort key of the queue: earliest deadline first inside each urgency, then arrival, then id."""

arrival_order = attrgetter("urgency", "arrival_s", "id")
"""Sort key of a queue that looks at no deadlines: first come, first served in each urgency."""
