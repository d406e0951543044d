"""A variant's scores on the rows of one split, with the right answers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from variants.confidence import confidence
from variants.errors import Invalid


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """`values` are the first output, `[n, classes] float32`; `labels` are `[n] int64`."""

    values: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.labels.shape != self.values.shape[:1]:
            raise Invalid(
                f"scores {list(self.values.shape)} do not belong to labels "
                f"{list(self.labels.shape)}; they are [n, classes] and [n]"
            )

    @property
    def answers(self) -> NDArray[np.int64]:
        """The class with the highest score, `[n]`."""
        return np.asarray(self.values.argmax(axis=1))

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each answer is right, `[n]`."""
        return np.asarray(self.answers == self.labels)

    @property
    def confidence(self) -> NDArray[np.float64]:
        """The largest softmax probability of each row, `[n]`, as clients see it."""
        return confidence(self.values)

    def same_rows(self, other: "Scores") -> bool:
        """Whether both are about the same rows, as far as labels tell."""
        return np.array_equal(self.labels, other.labels)
