"""One variant as the router sees it."""

from collections.abc import Mapping
from dataclasses import dataclass

from variants.profile import Accuracy, Quantiles


class NotMeasured(ValueError):
    """A service time was asked of a variant that has none measured."""

    def __init__(self, variant: str) -> None:
        super().__init__(f"{variant} has no measured service time")
        self.variant = variant


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A variant's measured numbers and whether it may serve.

    `service` maps batch size to seconds per batch, already corrected online by the caller; empty
    means unmeasured. `resident` says that at least one live worker has it loaded. `blocked` is
    the reason why it may not serve at all (quarantined, inactive), in words.
    """

    variant: str
    accuracy: Accuracy | None
    cost_usd_per_million: float | None
    service: Mapping[int, Quantiles]
    load_s: float = 0.0
    resident: bool = True
    blocked: str | None = None

    def service_s(self, rows: int, percentile: int) -> float:
        """Seconds that one run of `rows` takes, at this percentile.

        Taken from the smallest measured batch that holds the rows; beyond the largest it grows
        in proportion. Raises `NotMeasured` where nothing was measured.
        """
        quantiles, factor = self._run(rows)
        return quantiles.at(percentile) * factor

    def mean_s(self, rows: int) -> float:
        """Seconds that runs of `rows` take on average. Raises `NotMeasured`."""
        quantiles, factor = self._run(rows)
        return quantiles.mean * factor

    def _run(self, rows: int) -> tuple[Quantiles, float]:
        """The quantiles to go by, and what to multiply them with."""
        if rows in self.service:
            return self.service[rows], 1.0
        nearest = largest = 0
        for batch in self.service:
            if batch > rows and (nearest == 0 or batch < nearest):
                nearest = batch
            largest = max(largest, batch)
        if nearest:
            return self.service[nearest], 1.0
        if not largest:
            raise NotMeasured(self.variant)
        return self.service[largest], rows / largest
