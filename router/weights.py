"""A weighted objective: accuracy, cost and latency on axes from the worst variant to the best."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from router.candidate import Candidate


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One measured number, from the worst of the variants to the best."""

    worst: float
    best: float

    def share(self, value: float | None) -> float:
        """0 for the worst or unmeasured, 1 for the best; 1 where all are alike."""
        if value is None:
            return 0.0
        span = self.best - self.worst
        return (value - self.worst) / span if span else 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Axes:
    """What the weights are applied to: a quality metric, dollars per million, median seconds."""

    accuracy: Axis
    cost: Axis
    latency: Axis

    @classmethod
    def of(cls, candidates: Iterable[Candidate]) -> "Axes":
        """The range of what was measured."""
        known = list(candidates)
        qualities = [c.accuracy.value for c in known if c.accuracy is not None]
        costs = [c.cost_usd_per_million for c in known if c.cost_usd_per_million is not None]
        seconds = [c.service_s(1, 50) for c in known if c.service]
        return cls(
            accuracy=Axis(worst=min(qualities, default=0.0), best=max(qualities, default=0.0)),
            cost=Axis(worst=max(costs, default=0.0), best=min(costs, default=0.0)),
            latency=Axis(worst=max(seconds, default=0.0), best=min(seconds, default=0.0)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """How much each axis counts; only the proportions matter.

    `axes` is None as a caller states it, and set by `over` for one model. Raises `ValueError` for
    weights that are negative or all zero.
    """

    accuracy: float = 0.0
    cost: float = 0.0
    latency: float = 0.0
    axes: Axes | None = None

    def __post_init__(self) -> None:
        each = (self.accuracy, self.cost, self.latency)
        if not (all(0.0 <= weight < float("inf") for weight in each) and sum(each) > 0.0):
            raise ValueError(f"weights must be at least 0 and not all 0, not {each}")

    def over(self, candidates: Iterable[Candidate]) -> "Weights":
        """The same weights, on the axes of these variants."""
        return replace(self, axes=Axes.of(candidates))

    def score(self, candidate: Candidate) -> float:
        """The weighted mean of the candidate's places on the axes, from 0 to 1."""
        axes = self.axes
        if axes is None:
            raise ValueError("these weights are not on the axes of a model")
        accuracy = None if candidate.accuracy is None else candidate.accuracy.value
        total = (
            self.accuracy * axes.accuracy.share(accuracy)
            + self.cost * axes.cost.share(candidate.cost_usd_per_million)
            + self.latency
            * axes.latency.share(candidate.service_s(1, 50) if candidate.service else None)
        )
        return total / (self.accuracy + self.cost + self.latency)

    def __str__(self) -> str:
        parts = (("accuracy", self.accuracy), ("cost", self.cost), ("latency", self.latency))
        return "weighted" + "".join(f";{name}={weight:g}" for name, weight in parts if weight)
