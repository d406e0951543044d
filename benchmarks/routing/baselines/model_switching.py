"""Model-Switching: the most accurate variant that its load test found within the target.

Zhang et al., "Model-Switching: Dealing with Fluctuating Workloads in Machine-Learning-as-a-Service
Systems", HotCloud 2020. Offline each variant is tested at a range of Poisson loads; online the rate
of the last interval is looked up and the most accurate variant is taken whose share of violations
at that load is below the target, else the fastest.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from benchmarks.routing import mix, processes
from benchmarks.routing.baselines import Setting
from benchmarks.routing.baselines.gears import Gear, accurate_first, nearest
from benchmarks.routing.baselines.load import Paced
from benchmarks.routing.ladder import Ladder
from benchmarks.routing.windows import rescaled_us
from router.batching import fill
from router.fleet import Queued
from router.simulate import simulate
from router.view import Choice, View

LEVELS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
"""Loads that are tested, as a share of the most accurate variant's capacity."""

REQUESTS = 150


def grid(setting: Setting) -> Sequence[Mapping[str, Any]]:
    """The target of violations (its paper: 1 %), and the interval in units."""
    return tuple({"target": t, "units": u} for t in (0.01, 0.1) for u in (10, 50))


class ModelSwitching:
    """The policy: its state is the measured rate."""

    def __init__(self, setting: Setting, target: float, units: float) -> None:
        self._capacity_per_s = setting.workers * setting.ladder.capacity_per_s(setting.max_batch)
        self._tests = load_tests(setting.ladder, setting.workers, setting.max_batch)
        self._front = [each.variant for each in accurate_first(setting.ladder)]
        self._target = target
        self._gear = Paced(setting, units=units, plan=self._look_up)

    def arrived(self, now_s: float, queued: Queued) -> None:
        """Count it."""
        self._gear.arrived()

    def choose(self, view: View) -> Choice:
        """The variant for the rate."""
        variant = nearest(view, self._gear.at(view.now_s))
        return Choice(variant=variant, requests=fill(view, variant))

    def _look_up(self, per_s: float) -> str:
        load = per_s / self._capacity_per_s
        level = next((level for level in LEVELS if level >= load), LEVELS[-1])
        fitting = (name for name in self._front if self._tests[name, level] <= self._target)
        return next(fitting, self._front[-1])


@lru_cache(maxsize=16)
def load_tests(ladder: Ladder, workers: int, max_batch: int) -> Mapping[tuple[str, float], float]:
    """Share of possible requests that each variant did not answer in time at each level."""
    found = {}
    for level in LEVELS:
        rate_per_s = level * workers * ladder.capacity_per_s(max_batch)
        times = processes.generate("poisson", REQUESTS, 0)
        arrivals = mix.arrivals(ladder, rescaled_us(times, rate_per_s), 0)
        for each in accurate_first(ladder):
            run = simulate(
                Gear(each.variant),
                candidates=ladder.candidates,
                service=ladder.service,
                arrivals=arrivals,
                workers=workers,
                seed=0,
                max_batch=max_batch,
            )
            possible = [o for o in run.outcomes if o.status != "infeasible"]
            missed = sum(o.status != "answered" for o in possible)
            found[each.variant, level] = missed / max(1, len(possible))
    return found


def build(setting: Setting, *, target: float, units: float) -> ModelSwitching:
    """A fresh policy."""
    return ModelSwitching(setting, target, units)
