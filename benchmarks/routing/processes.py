"""Synthetic arrivals, seeded, with a mean rate of 1 per second; a window is rescaled anyway."""

from collections.abc import Callable, Mapping
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]


def _renewal(rng: np.random.Generator, n: int, cv2: float) -> Times:
    """`n` epochs of a unit-rate process whose gaps are Gamma with this squared variation."""
    return np.cumsum(rng.gamma(1 / cv2, cv2, n))


def _shaped(rng: np.random.Generator, n: int, rate: Callable[[Times], Times]) -> Times:
    """`n` Poisson arrivals over [0, 1] whose rate has this shape; times in units of that span."""
    grid = np.linspace(0, 1, 1001)
    load = np.concatenate([[0.0], np.cumsum(rate((grid[1:] + grid[:-1]) / 2))])
    epochs = _renewal(rng, n, 1.0)
    return np.interp(epochs / epochs[-1] * load[-1], load, grid) * n


def _step(t: Times) -> Times:
    return np.where((t >= 1 / 3) & (t < 2 / 3), 3.0, 1.0)


def _ramp(t: Times) -> Times:
    return 0.25 + 1.5 * t


def _flash(t: Times) -> Times:
    """A crowd: eight times the rate at once, then decaying with a twelfth of the span."""
    return 0.6 + np.where(t >= 0.4, 4.8 * np.exp(-(t - 0.4) * 12), 0.0)


PROCESSES: Mapping[str, Callable[[np.random.Generator, int], Times]] = {
    "poisson": lambda rng, n: _renewal(rng, n, 1.0),
    "gamma-cv2-4": lambda rng, n: _renewal(rng, n, 4.0),
    "gamma-cv2-8": lambda rng, n: _renewal(rng, n, 8.0),
    "step-x3": lambda rng, n: _shaped(rng, n, _step),
    "ramp": lambda rng, n: _shaped(rng, n, _ramp),
    "flash-crowd": lambda rng, n: _shaped(rng, n, _flash),
}
"""By name. Gamma with CV² 1 is `poisson`."""

BURSTY = frozenset({"gamma-cv2-4", "gamma-cv2-8", "step-x3", "flash-crowd"})


def generate(name: str, n: int, seed: int) -> Times:
    """`n` arrival times in seconds of the process of this name."""
    return PROCESSES[name](np.random.default_rng([seed, crc32(name.encode())]), n)
