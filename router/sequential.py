"""Confidence sequences: intervals that may be looked at after every observation.

An ordinary 95 % interval is right at one sample size that was fixed before; whoever looks again and
again until it says something will be misled far more often than once in twenty. These hold for all
sample sizes at once, so a canary may be judged at any moment and the false alarms stay below
`alpha` over its whole life.

For a Bernoulli rate p, the likelihood ratio of a Beta(½, ½) mixture against p,

    M(p) = B(k + ½, n − k + ½) ÷ B(½, ½) ÷ (pᵏ (1 − p)ⁿ⁻ᵏ)    after k of n,

is a martingale with mean 1 where p is the true rate, even one that decides itself when to stop. By
Ville's inequality it ever reaches 1 ÷ alpha with probability at most alpha, so all p with
M(p) < 1 ÷ alpha make a confidence sequence. Sources: H. Robbins, "Statistical methods related to
the law of the iterated logarithm", Annals of Mathematical Statistics 41 (1970); S. R. Howard,
A. Ramdas, J. McAuliffe, J. Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence
sequences", Annals of Statistics 49 (2021), section 3 on conjugate mixtures.
"""

import math
from dataclasses import dataclass

from variants.evidence import Interval

STEPS = 50
"""Halvings of the interval in which a bound is looked for: beyond what a float can tell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """`hits` of `n` observations, 0 ≤ hits ≤ n."""

    hits: int = 0
    n: int = 0

    def plus(self, hit: bool) -> "Count":
        """One more observation."""
        return Count(hits=self.hits + hit, n=self.n + 1)


def rate(count: Count, alpha: float) -> Interval:
    """The observed share with the interval that holds the true rate at all times together.

    With probability at least 1 − `alpha`, 0 < alpha < 1. Nothing observed: value ½, from 0 to 1.
    """
    if count.n == 0:
        return Interval(value=0.5, low=0.0, high=1.0)
    hits, misses = count.hits, count.n - count.hits
    value = hits / count.n
    margin = _log_beta(hits + 0.5, misses + 0.5) - _log_beta(0.5, 0.5) + math.log(alpha)
    return Interval(
        value=value,
        low=0.0 if hits == 0 else _edge(hits, misses, margin, outside=0.0, inside=value),
        high=1.0 if misses == 0 else _edge(hits, misses, margin, outside=1.0, inside=value),
    )


def difference(one: Count, other: Count, alpha: float) -> Interval:
    """Rate of `one` less that of `other`, from −1 to 1, by a confidence sequence for each.

    Either may be observed more often than the other, in any order: each gets half of `alpha`
    (union bound).
    """
    first, second = rate(one, alpha / 2), rate(other, alpha / 2)
    return Interval(
        value=first.value - second.value,
        low=first.low - second.high,
        high=first.high - second.low,
    )


def told(found: Interval, *, digits: int = 3) -> str:
    """An interval in words: `0.934 [0.912, 0.951]`."""
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _edge(hits: int, misses: int, margin: float, *, outside: float, inside: float) -> float:
    """Where the likelihood falls to that of the mixture times alpha, rounded outwards."""
    for _ in range(STEPS):
        middle = (outside + inside) / 2
        if _log_likelihood(hits, misses, middle) > margin:
            inside = middle
        else:
            outside = middle
    return outside


def _log_likelihood(hits: int, misses: int, p: float) -> float:
    return _times_log(hits, p) + _times_log(misses, 1.0 - p)


def _times_log(count: int, p: float) -> float:
    if count == 0:
        return 0.0
    return count * math.log(p) if p > 0.0 else -math.inf
