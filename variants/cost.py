"""Dollars from seconds and bytes."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """What the host costs while it works on a request."""

    core_hour_usd: float
    gib_hour_usd: float


def usd_per_million(
    prices: Prices, *, service_s: float, batch: int, threads: int, memory_bytes: int
) -> float:
    """US dollars per million inferences at `service_s` seconds per batch of `batch` rows.

    cost = service_s ÷ batch × 10^6 × (threads × core price + memory × GiB price) ÷ 3600. A cost
    cap is held against batch 1, the dearest way to run one inference, so batching never breaks it.
    """
    hourly = threads * prices.core_hour_usd + memory_bytes / GIB * prices.gib_hour_usd
    return service_s / batch * 1e6 * hourly / 3600
