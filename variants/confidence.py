"""How sure a classifier is of an answer, as cascades are calibrated and run by it."""

import numpy as np
from numpy.typing import NDArray

from variants.runtimes import Tensor


def confidence(scores: Tensor) -> NDArray[np.float64]:
    """The largest softmax probability of each row of `scores [rows, classes]`, `[rows]`."""
    wide = scores.astype(np.float64)
    return np.asarray(1 / np.exp(wide - wide.max(axis=1, keepdims=True)).sum(axis=1))
