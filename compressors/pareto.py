"""Which variants nobody beats."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One variant's place: more `accuracy` is better, less `latency_s` is better."""

    accuracy: float
    latency_s: float


def dominates(one: Point, other: Point) -> bool:
    """Whether `one` is at least as good in both and better in one (Pareto dominance)."""
    return (
        one.accuracy >= other.accuracy
        and one.latency_s <= other.latency_s
        and (one.accuracy, one.latency_s) != (other.accuracy, other.latency_s)
    )


def front(points: Sequence[Point]) -> tuple[bool, ...]:
    """For each point, whether no other dominates it."""
    return tuple(not any(dominates(other, point) for other in points) for point in points)
