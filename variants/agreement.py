"""How alike two variants' answers to the same rows are."""

from dataclasses import dataclass

import numpy as np

from variants.profile import Accuracy
from variants.runtimes import Tensor

TOLERANCE = 0.05
"""Numbers that are no scores of classes agree within this, absolutely and relative to the larger:
about what 8 bits can tell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Likeness:
    """Of `n` rows, how many have the same answer; `max_abs_difference` is over all their numbers.

    The difference is infinite where one of the two has a number and the other has none.
    """

    n: int
    agreed: int
    max_abs_difference: float

    @property
    def interval(self) -> Accuracy:
        """The ratio of rows that agree, with its 95 % Wilson score interval; `n` > 0."""
        return Accuracy.of(self.agreed, self.n)


def likeness(one: Tensor, other: Tensor, *, classes: bool) -> Likeness:
    """Compare two outputs `[rows, …]` of one shape, row by row.

    With `classes` they are scores `[rows, classes]`, and rows agree where the largest is the same;
    otherwise where all numbers are within `TOLERANCE`.
    """
    first, second = one.astype(np.float64), other.astype(np.float64)
    rows = len(first)
    same = np.isclose(first, second, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    agreed = (
        first.argmax(axis=1) == second.argmax(axis=1)
        if classes
        else same.reshape(rows, -1).all(axis=1)
    )
    equal = (first == second) | (np.isnan(first) & np.isnan(second))
    with np.errstate(invalid="ignore"):
        gaps = np.where(equal, 0.0, np.abs(first - second))
    largest = float(np.where(np.isnan(gaps), np.inf, gaps).max(initial=0.0))
    return Likeness(n=rows, agreed=int(agreed.sum()), max_abs_difference=largest)
