"""Intervals and a test for proportions, single and paired."""

import math
from statistics import NormalDist

from variants.evidence import Interval

CONFIDENCE = 0.95
"""Of every two-sided interval that is reported."""


def wilson(count: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """The share `count` ÷ `n` with its Wilson score interval.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22 (1927).
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = count / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(value=p, low=max(0.0, centre - half), high=min(1.0, centre + half))


def paired_difference(
    both: int, only_first: int, only_second: int, neither: int, confidence: float = CONFIDENCE
) -> Interval:
    """The share that the first gets right less that of the second, on the same rows.

    Source: R. G. Newcombe, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17 (1998), method 10: Wilson
    intervals of both shares, combined with their correlation.
    """
    n = both + only_first + only_second + neither
    first = wilson(both + only_first, n, confidence)
    second = wilson(both + only_second, n, confidence)
    phi = _correlation(both, only_first, only_second, neither)
    difference = (only_first - only_second) / n
    below = _combined(first.value - first.low, second.high - second.value, phi)
    above = _combined(first.high - first.value, second.value - second.low, phi)
    return Interval(
        value=difference, low=max(-1.0, difference - below), high=min(1.0, difference + above)
    )


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of McNemar's test, from the rows that only one gets right.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated
    proportions or percentages", Psychometrika 12 (1947), with the binomial distribution itself
    instead of its approximation. 1 where there are no such rows.
    """
    n = only_first + only_second
    ways = term = 1
    for k in range(1, min(only_first, only_second) + 1):
        term = term * (n - k + 1) // k
        ways += term
    return min(1.0, float(2 * ways / 2**n))


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """φ of the 2×2 table; a positive one gets a continuity correction (Newcombe 1998)."""
    n = both + only_first + only_second + neither
    margins = math.sqrt(
        (both + only_first)
        * (only_second + neither)
        * (both + only_second)
        * (only_first + neither)
    )
    if margins == 0:
        return 0.0
    over = both * neither - only_first * only_second
    return (max(over - n / 2, 0.0) if over > 0 else over) / margins


def _combined(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))
