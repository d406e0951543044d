"""What admission answers, with every reason."""

from dataclasses import dataclass
from typing import Literal

from router.constraints import Bound, Objective

Reason = Literal["most_accurate", "cheapest", "fastest", "only_feasible", "pinned", "fallback"]
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The answer to one request at arrival.

    admitted: `eligible` may serve it (late binding), `preferred` is the choice now.
    infeasible: no variant keeps the hard bounds even when idle; `binding` names the bound to
    blame (`blocked` where only blocks stand in the way, None where there are no candidates).
    overloaded: feasible, but not now; `retry_after_s` is the predicted time until it fits.
    `violated` lists the soft bounds that the one eligible variant breaks.
    """

    outcome: Outcome
    objective: Objective
    verdicts: tuple[Verdict, ...]
    eligible: tuple[str, ...] = ()
    preferred: str | None = None
    reason: Reason | None = None
    violated: tuple[Bound, ...] = ()
    binding: Bound | Literal["blocked"] | None = None
    relaxation: Relaxation | None = None
    retry_after_s: float | None = None
    message: str

    @property
    def feasible_count(self) -> int:
        """How many candidates keep every bound when idle."""
        return sum(verdict.feasible for verdict in self.verdicts)

    @property
    def considered(self) -> int:
        """How many candidates were looked at."""
        return len(self.verdicts)
