"""Service times corrected by what workers really take.

A profile is a prior: the same artifact may run slower on a busy host, or with other tails. For each
batch size a sketch holds measured ÷ predicted median of the last runs, and one more holds those of
all batch sizes together. A batch size's median moves from the profile's to its own sketch's as runs
are seen (weight n ÷ (n + 8)); the runs of other batch sizes stand in until then. The tails, as
multiples of the median, move later (n ÷ (n + 40) at p95, n ÷ (n + 200) at p99), since few runs say
little about them. In between the two are joined in proportion (geometric mean).

A variant that looks too slow gets no requests, and without requests nothing would ever show that
the host has become quick again. So what nothing has confirmed for ten seconds counts half as much
for every five seconds of that silence. What comes back then is the profile times what the variants
have in common: one that runs seldom, or never did, is as much slower or quicker as the others are.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from router.candidate import Candidate
from router.sketch import Sketch
from variants.profile import Quantiles

MEMORY = 64
"""About so many runs are remembered, so that a change of the host shows within as many."""

TRUST = (8.0, 40.0, 200.0)
"""Runs at which p50, p95 and p99 are half the profile's and half what was seen."""

RANKS = (0.5, 0.95, 0.99)
BOUNDS = (0.01, 100.0)
"""Measured ÷ predicted is held within these."""

REST_S = 10.0
HALF_LIFE_S = 5.0
FORGOTTEN = 0.1
"""Where so few runs are left of what was seen, the profile stands as it was."""

DOUBT = 16.0
"""Runs of all variants together at which half of what they have in common is believed."""

LOOK_EVERY = 16
"""Runs between two looks at the sketches, once that many were seen."""

REBUILD_AT = math.log(1.1)
"""The candidate is built anew when one of its medians or p95s moved by more than 10 %."""

DRIFT_RATIO = 1.5
DRIFT_S = 30.0
"""Drifted: for so long, the median was off the profile's by more than this factor."""


class HostSpeed:
    """What the variants' corrections have in common: how this host compares with the profiles'.

    `log` is the mean of their logs by runs remembered, drawn towards 0 by `DOUBT` runs.
    """

    def __init__(self) -> None:
        self.log = 0.0
        self._seen: dict[str, tuple[float, float]] = {}

    def tell(self, variant: str, log: float, runs: float) -> None:
        """A variant's own log of measured ÷ predicted, over so many runs; none end its say."""
        if runs > 0.0:
            self._seen[variant] = (log, runs)
        else:
            self._seen.pop(variant, None)
        total = sum(runs for _, runs in self._seen.values())
        self.log = sum(log * runs for log, runs in self._seen.values()) / (total + DOUBT)


def correcting() -> "Callable[[Candidate], Correction]":
    """Makes the corrections of variants that share a host."""
    host = HostSpeed()
    return lambda prior: Correction(prior, host)


class Correction:
    """The live candidate of one variant. Times come in as `now_s`, on one monotonic clock."""

    def __init__(self, prior: Candidate, host: HostSpeed | None = None) -> None:
        self._prior = prior
        self._host = HostSpeed() if host is None else host
        self._common = 0.0
        self._batches = sorted(prior.service)
        self._all = _sketch()
        self._sketches: dict[int, Sketch] = {}
        self._runs = 0
        self._look_s = math.inf
        self._off_since_s = math.inf
        self._ratio = 1.0
        self._logs = dict.fromkeys(self._batches, (0.0, 0.0, 0.0))
        self._candidate = prior

    @property
    def ratio(self) -> float:
        """Median service time now ÷ that of the profile, over all batch sizes."""
        return self._ratio

    def drifted(self, now_s: float) -> bool:
        """Whether the profile no longer holds: off by `DRIFT_RATIO` for at least `DRIFT_S`."""
        return now_s - self._off_since_s >= DRIFT_S

    def candidate(self, now_s: float) -> Candidate:
        """The prior with its service times as they are now."""
        if now_s >= self._look_s or abs(self._host.log - self._common) > REBUILD_AT / 2:
            self._look(now_s)
        return self._candidate

    def rest(self) -> None:
        """The variant is out of use: what it has seen is kept, and says nothing of the host."""
        self._host.tell(self._prior.variant, 0.0, 0.0)

    def observe(self, rows: int, run_s: float, now_s: float) -> float:
        """Take in one batch's run time and return measured ÷ predicted median."""
        if not self._batches:
            return 1.0
        predicted_s = self._prior.service_s(rows, 50)
        measured = run_s / predicted_s if predicted_s > 0 else 1.0
        low, high = BOUNDS
        value = math.log(min(max(measured, low), high))
        batch = next((size for size in self._batches if size >= rows), self._batches[-1])
        sketch = self._sketches.get(batch)
        if sketch is None:
            sketch = self._sketches[batch] = _sketch()
        sketch.add(value, now_s)
        self._all.add(value, now_s)
        self._runs += 1
        if self._runs <= LOOK_EVERY or self._runs % LOOK_EVERY == 0 or now_s >= self._look_s:
            self._look(now_s)
        return measured

    def _look(self, now_s: float) -> None:
        """Estimate anew, and rebuild the candidate where that makes a difference."""
        held = self._all.count(now_s)
        own = self._all.quantiles(RANKS[:1])[0] if held > 0.0 else 0.0
        self._host.tell(self._prior.variant, own, held if held >= FORGOTTEN else 0.0)
        common = self._common = self._host.log
        shared = common + _trust(held, TRUST[0]) * (own - common)
        self._ratio = math.exp(shared)
        if abs(shared) <= math.log(DRIFT_RATIO):
            self._off_since_s = math.inf
        else:
            self._off_since_s = min(self._off_since_s, now_s)
        if held < FORGOTTEN:
            self._look_s = math.inf
            self._build(dict.fromkeys(self._batches, (common, common, common)))
            return
        self._look_s = now_s + REST_S
        logs = {batch: self._estimate(batch, shared, now_s) for batch in self._batches}
        if any(_moved(logs[batch], self._logs[batch]) for batch in logs):
            self._build(logs)

    def _build(self, logs: dict[int, tuple[float, float, float]]) -> None:
        self._logs = logs
        if not any(any(each) for each in logs.values()):
            self._candidate = self._prior
            return
        service = {batch: _times(self._prior.service[batch], logs[batch]) for batch in logs}
        self._candidate = replace(self._prior, service=service)

    def _estimate(self, batch: int, shared: float, now_s: float) -> tuple[float, float, float]:
        """Log of (p50, p95, p99) now ÷ that of the profile."""
        sketch = self._sketches.get(batch)
        runs = 0.0 if sketch is None else sketch.count(now_s)
        if sketch is None or runs <= 0.0:
            return shared, shared, shared
        prior = self._prior.service[batch]
        seen = sketch.quantiles(RANKS)
        middle = shared + _trust(runs, TRUST[0]) * (seen[0] - shared)
        found = [middle]
        for known, value, half in zip((prior.p95, prior.p99), seen[1:], TRUST[1:], strict=True):
            tail = math.log(known / prior.p50) if prior.p50 > 0 < known else 0.0
            found.append(middle + _trust(runs, half) * (value - seen[0] - tail))
        return found[0], found[1], found[2]


def _sketch() -> Sketch:
    return Sketch(memory=MEMORY, rest_s=REST_S, half_life_s=HALF_LIFE_S)


def _trust(runs: float, half: float) -> float:
    return runs / (runs + half)


def _moved(now: tuple[float, float, float], was: tuple[float, float, float]) -> bool:
    return abs(now[0] - was[0]) > REBUILD_AT or abs(now[1] - was[1]) > REBUILD_AT


def _times(prior: Quantiles, logs: tuple[float, float, float]) -> Quantiles:
    p50, p95, p99 = (
        seconds * math.exp(log)
        for seconds, log in zip((prior.p50, prior.p95, prior.p99), logs, strict=True)
    )
    return Quantiles(p50=p50, p95=max(p50, p95), p99=max(p50, p95, p99))
