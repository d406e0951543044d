"""The variants of one model as a cell sees them: what is believed, and what runs really take."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from router.candidate import Candidate
from variants.profile import Accuracy, Quantiles

Samples = Mapping[int, NDArray[np.float64]]
"""Sorted service times in seconds, by batch size."""

POINTS = 400
"""Samples of a distribution that is known by its quantiles only."""

SIGMA = 0.2
"""Spread of service times where a table has one number: log-normal, p95 ÷ p50 = 1.39."""

Z95, Z99 = 1.6448536269514722, 2.3263478740408408

USD_PER_WORKER_S = 0.05 / 3600
"""What a worker costs where a table names no cost: 5 US cents an hour, a small cloud core."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ladder:
    """A model's variants. Policies decide with `candidates`; runs take `service`.

    Compared by identity, so that what is solved for a ladder can be kept.
    """

    name: str
    candidates: tuple[Candidate, ...]
    service: Mapping[str, Samples]

    @property
    def best(self) -> Candidate:
        """The most accurate variant; the faster one of equals."""
        return max(self.candidates, key=lambda each: (value(each), -each.service_s(1, 50)))

    def capacity_per_s(self, max_batch: int) -> float:
        """Rows a second of one worker on the most accurate variant, at its best batch."""
        samples = self.service[self.best.variant]
        sizes = [batch for batch in samples if batch <= max_batch] or [min(samples)]
        return max(min(batch, max_batch) / float(np.mean(samples[batch])) for batch in sizes)

    def believing(self, other: "Ladder") -> "Ladder":
        """This ladder where policies believe the other's times; accuracy and cost stay."""
        times = {each.variant: each.service for each in other.candidates}
        return replace(
            self,
            candidates=tuple(
                replace(each, service=times[each.variant]) for each in self.candidates
            ),
        )

    def only(self, names: Collection[str]) -> "Ladder":
        """The variants of these names."""
        kept = tuple(each for each in self.candidates if each.variant in names)
        return replace(
            self,
            candidates=kept,
            service={each.variant: self.service[each.variant] for each in kept},
        )

    def by_means(self) -> "Ladder":
        """This ladder where policies believe every run to take the mean: no quantiles."""
        flat = []
        for each in self.candidates:
            samples = self.service[each.variant]
            means = {batch: float(np.mean(samples[batch])) for batch in each.service}
            service = {batch: Quantiles(p50=m, p95=m, p99=m) for batch, m in means.items()}
            flat.append(replace(each, service=service))
        return replace(self, candidates=tuple(flat))


def value(candidate: Candidate) -> float:
    """Measured accuracy, a ratio."""
    assert candidate.accuracy is not None
    return candidate.accuracy.value


def from_quantiles(quantiles: Quantiles) -> NDArray[np.float64]:
    """Samples whose median, p95 and p99 are these: log-linear between, with short ends.

    Below the median the spread is half of what it is above (runs have a floor, not a ceiling);
    beyond p99 the line from p95 goes on.
    """
    p50, p95, p99 = (math.log(q) for q in (quantiles.p50, quantiles.p95, quantiles.p99))
    low = p50 - min(0.5 * (p95 - p50), 0.25)
    grid = (np.arange(POINTS) + 0.5) / POINTS
    return np.exp(np.interp(grid, [0, 0.5, 0.95, 0.99, 1], [low, p50, p95, p99, 2 * p99 - p95]))


def log_normal(median_s: float) -> Quantiles:
    """Quantiles around one measured number, with the stated spread."""
    return Quantiles(
        p50=median_s,
        p95=median_s * math.exp(Z95 * SIGMA),
        p99=median_s * math.exp(Z99 * SIGMA),
    )


def in_proportion(single: Quantiles, batches: Sequence[int]) -> dict[int, Quantiles]:
    """Batches that take as long as their rows one by one: what CPUs nearly do."""
    return {
        batch: Quantiles(p50=single.p50 * batch, p95=single.p95 * batch, p99=single.p99 * batch)
        for batch in batches
    }


def candidate(
    variant: str,
    accuracy: Accuracy,
    service: Mapping[int, Quantiles],
    *,
    cost_usd_per_million: float | None = None,
    load_s: float | None = None,
) -> Candidate:
    """One rung. Cost by worker time and load as 20 runs where the table does not say."""
    single = service[min(service)]
    per_row_s = single.p50 / min(service)
    if cost_usd_per_million is None:
        cost_usd_per_million = per_row_s * USD_PER_WORKER_S * 1e6
    return Candidate(
        variant=variant,
        accuracy=accuracy,
        cost_usd_per_million=cost_usd_per_million,
        service=dict(service),
        load_s=20 * single.p50 if load_s is None else load_s,
    )


def ladder_of(name: str, candidates: Sequence[Candidate]) -> Ladder:
    """The candidates with true service times drawn from their own quantiles."""
    ordered = tuple(sorted(candidates, key=lambda each: each.variant))
    return Ladder(
        name=name,
        candidates=ordered,
        service={
            each.variant: {batch: from_quantiles(q) for batch, q in each.service.items()}
            for each in ordered
        },
    )


def pareto(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other one beats in accuracy and median time, fastest first."""
    kept: list[Candidate] = []
    for each in sorted(candidates, key=lambda c: (c.service_s(1, 50), -value(c), c.variant)):
        if not kept or value(each) > value(kept[-1]):
            kept.append(each)
    return kept
