"""Measured demand, and plans that follow it at an interval: what rate-driven policies share."""

from collections.abc import Callable
from typing import Generic, TypeVar

from benchmarks.routing.baselines import Setting

Plan = TypeVar("Plan")


def mean_per_s(setting: Setting) -> float:
    """Arrivals a second over the training window."""
    arrivals = setting.training
    span_s = (arrivals[-1].at_us - arrivals[0].at_us) / 1e6
    return (len(arrivals) - 1) / span_s if span_s > 0 else 1.0


class Paced(Generic[Plan]):
    """A plan for the demand of the last interval, made anew at each interval's end.

    `share` is the weight of the newest interval in the exponential mean. The first plan is for the
    training window's mean.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        units: float,
        plan: Callable[[float], Plan],
        share: float = 1.0,
    ) -> None:
        self._interval_s = units * setting.unit_s
        self._make = plan
        self._share = share
        self._per_s = mean_per_s(setting)
        self._plan = plan(self._per_s)
        self._count = 0
        self._since_s = 0.0

    def arrived(self) -> None:
        """Count a request."""
        self._count += 1

    def at(self, now_s: float) -> Plan:
        """The plan in force."""
        elapsed_s = now_s - self._since_s
        if elapsed_s >= self._interval_s:
            measured = self._count / elapsed_s
            self._per_s += self._share * (measured - self._per_s)
            self._plan = self._make(self._per_s)
            self._count, self._since_s = 0, now_s
        return self._plan
