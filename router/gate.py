"""Admission for one state of a model's candidates: what the load does not change is kept.

Most requests ask for what others asked for before, find every worker alike, and are admitted. For
those only the wait is new. Whatever else comes is decided by `admission.admit`, which this agrees
with.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from router.admission import admit
from router.candidate import Candidate
from router.constraints import Constraints, Objective
from router.decision import Decision, Reason, Verdict, Waited
from router.estimate import queued_s
from router.explain import CHOICE
from router.fleet import WorkerView
from router.kind import Kind
from router.outlook import Outlook
from router.ranking import preference
from router.waiting import Waiting

OVERHEAD_STEP = 1.1
"""The overhead is rounded up to a power of this, so that what was worked out serves for longer."""

REMEMBERED = 1024
"""Requests of so many descriptions are remembered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Standing:
    """A description's chances when idle: `ranked` are the feasible, best first, with latencies."""

    objective: Objective
    verdicts: tuple[Verdict, ...]
    eligible: tuple[str, ...]
    ranked: tuple[tuple[str, float], ...]
    reason: Reason
    messages: Mapping[str, str]


class Gate:
    """Decides on requests to one model, as its `candidates` and its `reference` are now."""

    def __init__(self, candidates: Sequence[Candidate], reference: str | None) -> None:
        self._candidates = candidates
        self._by_id = {candidate.variant: candidate for candidate in candidates}
        self._reference = reference
        self._resident = frozenset(each.variant for each in candidates if each.resident)
        self._outlook = Outlook(self._by_id, frozenset())
        self._alone_s: dict[Kind, float] = _Fastest(self._outlook)
        self._standings: dict[tuple[Constraints, int, float], _Standing | None] = {}
        self._rounded = (0.0, 0.0)

    def decide(
        self,
        constraints: Constraints,
        *,
        queue: Waiting,
        workers: Sequence[WorkerView],
        now_s: float,
        rows: int,
        overhead_s: float,
        queue_limit: int,
        rivals: int = 0,
    ) -> Decision:
        """The decision on one request, as `admission.admit` describes it."""
        if overhead_s != self._rounded[0]:
            self._rounded = (overhead_s, self.rounded_up(overhead_s))
        overhead_s = self._rounded[1]
        key = (constraints, rows, overhead_s)
        standing = self._standings.get(key)
        if standing is None and key not in self._standings:
            if len(self._standings) >= REMEMBERED:
                self._standings.clear()
            standing = self._standings[key] = self._standing(constraints, rows, overhead_s)
        if (
            standing is not None
            and len(queue) < queue_limit
            and all(self._resident <= worker.loaded for worker in workers)
        ):
            wait_s = self._wait_s(constraints, queue, workers, now_s, rivals)
            limit_s = math.inf if constraints.max_latency_s is None else constraints.max_latency_s
            for variant, idle_s in standing.ranked:
                if idle_s + wait_s <= limit_s:
                    return Decision(
                        outcome="admitted",
                        objective=standing.objective,
                        verdicts=Waited(standing.verdicts, wait_s),
                        eligible=standing.eligible,
                        preferred=variant,
                        reason=standing.reason,
                        message=standing.messages[variant],
                    )
        return admit(
            constraints,
            self._candidates,
            reference=self._reference,
            queue=queue.requests,
            workers=workers,
            now_s=now_s,
            rows=rows,
            overhead_s=overhead_s,
            queue_limit=queue_limit,
            rivals=rivals,
        )

    @staticmethod
    def rounded_up(overhead_s: float) -> float:
        """The overhead that decisions are made with: the next step up."""
        if overhead_s <= 0.0:
            return 0.0
        return float(OVERHEAD_STEP ** math.ceil(math.log(overhead_s, OVERHEAD_STEP) - 1e-9))

    def _standing(self, constraints: Constraints, rows: int, overhead_s: float) -> _Standing | None:
        """None where not every variant is there, or none is feasible: that is for `admit`."""
        if len(self._resident) < len(self._candidates):
            return None
        idle = WorkerView(id=0, free_at_s=0.0, loaded=self._resident)
        whole = admit(
            constraints,
            self._candidates,
            reference=self._reference,
            queue=(),
            workers=[idle],
            now_s=0.0,
            rows=rows,
            overhead_s=overhead_s,
            queue_limit=1,
        )
        if whole.reason in (None, "fallback"):
            return None
        idle_s = {
            v.variant: math.inf if (s := v.idle_latency_s) is None else s for v in whole.verdicts
        }
        ranked = sorted(
            whole.eligible,
            key=lambda name: preference(whole.objective, self._by_id[name], idle_s[name]),
        )
        return _Standing(
            objective=whole.objective,
            verdicts=tuple(whole.verdicts),
            eligible=whole.eligible,
            ranked=tuple((name, idle_s[name]) for name in ranked),
            reason=whole.reason,
            messages={name: f"{name} {CHOICE[whole.reason]}" for name in whole.eligible},
        )

    def _wait_s(
        self,
        constraints: Constraints,
        queue: Waiting,
        workers: Sequence[WorkerView],
        now_s: float,
        rivals: int,
    ) -> float:
        """Seconds until a worker could start: as `estimate.start_in_s`, all workers being alike."""
        limit_s = constraints.max_latency_s
        deadline_s = math.inf if limit_s is None else now_s + limit_s
        if not queue:
            ahead_s = 0.0
        elif queue.by_deadline and queue.requests[0].urgency == constraints.urgency:
            before = bisect_right(queue.deadlines_s, deadline_s)
            if len(queue.counts) == 1:
                ahead_s = before * self._alone_s[queue.kinds[0]]
            else:
                ahead_s = sum(map(self._alone_s.__getitem__, islice(queue.kinds, before)))
        else:
            ahead_s = queued_s(
                queue.requests, self._by_id, deadline_s=deadline_s, urgency=constraints.urgency
            )
        free_s = min(worker.free_at_s for worker in workers) - now_s
        return max(0.0, free_s) + ahead_s * (1 + rivals) / len(workers)


class _Fastest(dict[Kind, float]):
    """The median of each kind's fastest variant, looked up when first asked for."""

    def __init__(self, outlook: Outlook) -> None:
        super().__init__()
        self._outlook = outlook

    def __missing__(self, kind: Kind) -> float:
        seconds = self[kind] = self._outlook.anywhere_s(kind)
        return seconds
