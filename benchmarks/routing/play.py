"""One policy over one window: the simulator with a cell's settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.routing import baselines, metrics
from benchmarks.routing.baselines import Setting
from router.candidate import Candidate
from router.constraints import Constraints
from router.correction import correcting
from router.judge import eligible
from router.simulate import Arrival, simulate


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How a run is played; what an ablation takes away is taken away here.

    `correction` lets the candidates follow what runs take, for every policy alike. True times are
    multiplied by `drift` from the middle of the window on.
    """

    max_batch: int = 8
    edf: bool = True
    early_drop: bool = True
    correction: bool = False
    drift: float = 1.0


Chosen = tuple[str, Mapping[str, Any]]
"""A policy's name and its tunables."""


def play(
    chosen: Chosen, setting: Setting, arrivals: Sequence[Arrival], *, seed: int, rules: Rules
) -> metrics.Scores:
    """What this policy makes of these arrivals, from a cold start."""
    name, tunables = chosen
    baseline = baselines.find(name)
    pin = getattr(baseline, "pin", None)
    played = arrivals if pin is None else _pinned(pin, setting, arrivals, tunables)
    middle_s = (arrivals[0].at_us + arrivals[-1].at_us) / 2e6
    run = simulate(
        baseline.build(setting, **tunables),
        candidates=setting.ladder.candidates,
        service=setting.ladder.service,
        arrivals=played,
        workers=setting.workers,
        seed=seed,
        max_batch=rules.max_batch,
        early_drop=rules.early_drop,
        edf=rules.edf,
        correction=correcting() if rules.correction else None,
        drift=None if rules.drift == 1 else lambda now_s: rules.drift if now_s > middle_s else 1.0,
    )
    return metrics.scores(run, arrivals, setting.ladder)


def _pinned(
    pin: Callable[..., str],
    setting: Setting,
    arrivals: Sequence[Arrival],
    tunables: Mapping[str, Any],
) -> list[Arrival]:
    known: dict[Any, list[Candidate]] = {}
    bound: dict[Any, Constraints] = {}
    found = []
    for number, arrival in enumerate(arrivals):
        key = (arrival.constraints, arrival.rows)
        if key not in known:
            known[key] = eligible(
                arrival.constraints,
                setting.ladder.candidates,
                reference=None,
                rows=arrival.rows,
            )
        asked = arrival.constraints
        if known[key]:
            variant = pin(setting, known[key], number, **tunables)
            if (asked, variant) not in bound:
                bound[asked, variant] = replace(asked, variants=(variant,))
            asked = bound[asked, variant]
        found.append(
            Arrival(at_us=arrival.at_us, constraints=asked, rows=arrival.rows, group=arrival.group)
        )
    return found
