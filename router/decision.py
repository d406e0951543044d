"""What admission answers, with every reason.

What is made for every request is a named tuple: a frozen dataclass takes six times as long to make.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, overload

from router.constraints import Bound, Objective

Reason = Literal[
    "most_accurate", "cheapest", "fastest", "best_weighted", "only_feasible", "pinned", "fallback"
]
"""Why the preferred variant is preferred; `fallback` means that it breaks a soft bound."""

Outcome = Literal["admitted", "infeasible", "overloaded"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """One reason why a variant may not answer.

    `bound` is a bound's name, or `unmeasured` (the number that the bound needs is not known), or
    `blocked`. `against` is the bound that fails in each case; None for `blocked`. `limit` and
    `found` are in the bound's own unit: seconds, dollars per million, ratio, percentage points.
    """

    bound: Bound | Literal["unmeasured", "blocked"]
    against: Bound | None
    limit: float | None = None
    found: float | None = None
    detail: str


class Verdict(NamedTuple):
    """One candidate against every bound, hard and soft, on an idle machine.

    `predicted_latency_s` adds the present load; None where no worker has the variant or nothing
    was measured. Both latencies are at the caller's percentile.
    """

    variant: str
    rejections: tuple[Rejection, ...]
    predicted_latency_s: float | None
    idle_latency_s: float | None
    cost_usd_per_million: float | None
    accuracy: float | None
    accuracy_low: float | None

    @property
    def feasible(self) -> bool:
        """Whether it keeps every bound when idle."""
        return not self.rejections


class Waited(Sequence[Verdict]):
    """Verdicts of an idle machine with one wait added to all, each made when it is asked for."""

    def __init__(self, idle: Sequence[Verdict], wait_s: float) -> None:
        self._idle = idle
        self._wait_s = wait_s

    def __len__(self) -> int:
        return len(self._idle)

    @overload
    def __getitem__(self, index: int) -> Verdict: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Verdict]: ...

    def __getitem__(self, index: int | slice) -> Verdict | Sequence[Verdict]:
        if isinstance(index, slice):
            return [self._now(verdict) for verdict in self._idle[index]]
        return self._now(self._idle[index])

    def __iter__(self) -> Iterator[Verdict]:
        return map(self._now, self._idle)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash((tuple(self._idle), self._wait_s))

    def of(self, variant: str) -> Verdict:
        """The verdict on one variant. Raises `StopIteration` for one that is not there."""
        return self._now(next(verdict for verdict in self._idle if verdict.variant == variant))

    def _now(self, verdict: Verdict) -> Verdict:
        if verdict.idle_latency_s is None:
            return verdict
        return Verdict(  # `replace` would take four times as long, for every request
            variant=verdict.variant,
            rejections=verdict.rejections,
            predicted_latency_s=verdict.idle_latency_s + self._wait_s,
            idle_latency_s=verdict.idle_latency_s,
            cost_usd_per_million=verdict.cost_usd_per_million,
            accuracy=verdict.accuracy,
            accuracy_low=verdict.accuracy_low,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Relaxation:
    """One bound, moved from `limit` to `needed`, that lets `variant` answer.

    `needed` is rounded away from the bound to a number that people type, so it is enough as
    written in `sentence`.
    """

    bound: Bound
    limit: float
    needed: float
    variant: str
    sentence: str


class Decision(NamedTuple):
    """The answer to one request at arrival.

    admitted: `eligible` may serve it (late binding), `preferred` is the choice now.
    infeasible: no variant keeps the hard bounds even when idle; `binding` names the bound to
    blame (`blocked` where only blocks stand in the way, None where there are no candidates).
    overloaded: feasible, but not now; `retry_after_s` is the predicted time until it fits.
    `violated` lists the soft bounds that the one eligible variant breaks.
    """

    outcome: Outcome
    objective: Objective
    verdicts: Sequence[Verdict]
    message: str
    eligible: tuple[str, ...] = ()
    preferred: str | None = None
    reason: Reason | None = None
    violated: tuple[Bound, ...] = ()
    binding: Bound | Literal["blocked"] | None = None
    relaxation: Relaxation | None = None
    retry_after_s: float | None = None

    @property
    def feasible_count(self) -> int:
        """How many candidates keep every bound when idle."""
        if self.outcome == "admitted" and not self.violated:
            return len(self.eligible)
        return sum(verdict.feasible for verdict in self.verdicts)

    def verdict(self, variant: str) -> Verdict:
        """The verdict on one candidate. Raises `StopIteration` for one that is not there."""
        if isinstance(self.verdicts, Waited):
            return self.verdicts.of(variant)
        return next(verdict for verdict in self.verdicts if verdict.variant == variant)

    @property
    def considered(self) -> int:
        """How many candidates were looked at."""
        return len(self.verdicts)
