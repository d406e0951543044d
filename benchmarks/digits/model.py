"""Handwritten digits: a small residual network on which every technique finds something to do."""

from functools import cache

import torch
from torch import nn

from compressors import datasets

TEST, SELECTION = 1_000, 500


def conv(inputs: int, outputs: int) -> nn.Sequential:
    """A 3×3 convolution, batch normalisation and a rectifier."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(conv(channels, channels), conv(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inside(x)


def build_model() -> nn.Module:
    """0.9 million weights; the three residual blocks and the wide layer hold most of them."""
    return nn.Sequential(
        conv(1, 32),
        nn.MaxPool2d(2),
        conv(32, 48),
        nn.MaxPool2d(2),
        nn.Sequential(Residual(48), Residual(48), Residual(48)),
        nn.Flatten(),
        nn.Linear(48 * 49, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )


@cache
def _data() -> datasets.Images:
    return datasets.mnist_subset()


def train_data() -> datasets.Arrays:
    return _data().rows(TEST + SELECTION).arrays


def selection_data() -> datasets.Arrays:
    return _data().rows(TEST, TEST + SELECTION).arrays


def eval_data() -> datasets.Arrays:
    return _data().rows(0, TEST).arrays


def calibration_data() -> datasets.Pixels:
    return _data().rows(TEST + SELECTION, TEST + SELECTION + 256).images


def labels() -> list[str]:
    return list("0123456789")
