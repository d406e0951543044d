"""Which model goes next on a free worker: by deadline, with an equal share guaranteed to each.

Every model has a virtual clock that its runs advance by the worker-seconds they take. Models that
wait are served by urgency and deadline as long as their clocks are close together; one that is
`ALLOWANCE_S` ahead of the last has had more than its share and lets those behind go first. Who did
not wait has saved nothing up: its clock starts where the others are. So a model that asks for no
more than its share waits for every other model at most `ALLOWANCE_S` worker-seconds and one run,
beside the runs that have begun already, whatever that one's load, urgency and deadlines are. No
worker is idle while anything waits that it can run.

Source: P. Goyal, H. Vin, H. Cheng, "Start-time fair queuing: a scheduling algorithm for integrated
services packet switching networks", SIGCOMM 1996; the deadline order within the allowance is ours.
"""

from collections.abc import Collection, Mapping

ALLOWANCE_S = 0.05
"""Worker-seconds that urgency and deadlines may give to one model before another."""

Head = tuple[int, float]
"""Urgency and deadline of the request that should go first in a model's queue."""


class Shares:
    """The virtual clocks, in worker-seconds. Knows no other time."""

    def __init__(self) -> None:
        self._now = 0.0
        self._clocks: dict[str, float] = {}

    def order(self, heads: Mapping[str, Head]) -> list[str]:
        """The models that wait, in the order in which a free worker should try them."""
        if len(heads) < 2:
            return list(heads)
        last = min(map(self._clock, heads))
        ahead = {name: self._clock(name) - last for name in heads}
        return sorted(
            heads,
            key=lambda name: (max(0.0, ahead[name] - ALLOWANCE_S), heads[name], name),
        )

    def begin(self, model: str, expected_s: float, waiting: Collection[str]) -> None:
        """Charge a model for a run that begins while these models wait, itself among them."""
        start = self._clock(model)
        self._now = max(self._now, min(map(self._clock, {model, *waiting})))
        self._clocks[model] = start + expected_s

    def correct(self, model: str, more_s: float) -> None:
        """Charge what a run took beyond the expected; negative where it was quicker."""
        self._clocks[model] = self._clocks.get(model, self._now) + more_s

    def _clock(self, model: str) -> float:
        return max(self._now, self._clocks.get(model, 0.0))
