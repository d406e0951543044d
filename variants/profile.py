"""What was measured about a variant, and where."""

import math
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict

BATCHES = (1, 2, 4, 8, 16, 32)
"""Batch sizes at which every variant is measured."""

QUANTILES = (50, 95, 99)
"""Percentiles that a profile records."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """A proportion of correct answers with its 95 % Wilson score interval.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", JASA 22 (1927), eq. for the score interval.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    value: float
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, correct: int, n: int) -> "Accuracy":
        """Accuracy of `correct` right answers out of `n` > 0."""
        z = 1.959963984540054
        p = correct / n
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return cls(value=p, n=n, low=max(0.0, centre - half), high=min(1.0, centre + half))


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantiles:
    """Service time of one batch, in seconds."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    p50: float
    p95: float
    p99: float

    @property
    def mean(self) -> float:
        """The mean to expect: of the log-normal distribution through the median and p95.

        At most what the quantiles allow where every run between two of them took as long as the
        upper one. Source: N. L. Johnson, S. Kotz, N. Balakrishnan, "Continuous univariate
        distributions", volume 1, chapter 14.
        """
        if not 0.0 < self.p50 < self.p95:
            return self.p50
        spread = math.log(self.p95 / self.p50) / 1.6448536269514722
        most = 0.5 * self.p50 + 0.45 * self.p95 + 0.05 * self.p99
        return min(self.p50 * math.exp(spread * spread / 2), most)

    def chance(self, limit_s: float) -> float:
        """The share of runs that end within `limit_s`, in proportion between the quantiles.

        Beyond p99 the last hundredth lies within as much again as between p95 and p99.
        """
        if limit_s < self.p50:
            return 0.5 * limit_s / self.p50
        if limit_s < self.p95:
            return 0.5 + 0.45 * (limit_s - self.p50) / (self.p95 - self.p50)
        if limit_s < self.p99:
            return 0.95 + 0.04 * (limit_s - self.p95) / (self.p99 - self.p95)
        span = self.p99 - self.p95
        return 1.0 if span <= 0.0 else min(1.0, 0.99 + 0.01 * (limit_s - self.p99) / span)

    def at(self, percentile: int) -> float:
        """The smallest recorded quantile at or above `percentile` (at most 99)."""
        if percentile <= 50:
            return self.p50
        return self.p95 if percentile <= 95 else self.p99


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Speed and footprint of one artifact on one runtime of one host."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    runtime: str
    runtime_version: str
    device: str
    host: str
    threads: int
    latency_s: Mapping[int, Quantiles]
    throughput_per_s: float
    memory_bytes: int
    load_s: float
    measured_at: str


def host_fingerprint() -> str:
    """This host in one line: processor model, logical cores, machine type."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{model}; {os.cpu_count()} cores; {platform.machine()}"
