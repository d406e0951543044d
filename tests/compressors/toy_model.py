"""A user's model file for the tests: four classes of noisy 8×8 patterns, made from a seed."""

import numpy as np
from numpy.typing import NDArray
from torch import nn

PATTERNS = np.random.default_rng(7).random((4, 1, 8, 8)).astype(np.float32)


def _rows(seed: int, n: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, n)
    noise = random.normal(scale=0.35, size=(n, 1, 8, 8)).astype(np.float32)
    return (PATTERNS[labels] + noise).astype(np.float32), labels


def build_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 128),
        nn.ReLU(),
        nn.Linear(128, 4),
    )


def build_student() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))


def train_data() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return _rows(1, 1280)


def eval_data() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return _rows(2, 400)


def selection_data() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return _rows(3, 200)


def calibration_data() -> NDArray[np.float32]:
    return _rows(1, 128)[0]


def note() -> str:
    return "patterns made from a seed"
