"""CIFAR-10: a nine-layer residual network, trained on small crops first and whole images later."""

from functools import cache

import torch
from torch import nn

from compressors import datasets

SELECTION = 5_000
"""The last training images are kept for gates and choices."""
SMALL_UNTIL = 0.55
"""Share of the training that sees 24×24 crops, which cost half of what whole images do."""


class Normalise(nn.Module):
    """Pixels in [0, 1] to zero mean and about unit variance, inside the exported graph."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image - 0.473) / 0.251


def conv(inputs: int, outputs: int, *, halve: bool = False) -> nn.Sequential:
    """A 3×3 convolution, batch normalisation and a rectifier, at half the size if asked."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        *([nn.MaxPool2d(2)] if halve else []),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(conv(channels, channels), conv(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inside(x)


class GlobalMax(nn.Module):
    """The largest value of each channel, `[n, c, h, w]` to `[n, c]`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.amax((2, 3))


def build_model() -> nn.Module:
    """1.65 million weights, after D. Page, "How to train your ResNet" (2018), at half its width."""
    return nn.Sequential(
        Normalise(),
        conv(3, 32),
        conv(32, 64, halve=True),
        Residual(64),
        conv(64, 128, halve=True),
        conv(128, 256, halve=True),
        Residual(256),
        GlobalMax(),
        nn.Linear(256, 10),
    )


@cache
def _data() -> tuple[datasets.Images, datasets.Images]:
    return datasets.cifar10()


def train_data() -> datasets.Arrays:
    return _data()[0].rows(0, -SELECTION).arrays


def selection_data() -> datasets.Arrays:
    return _data()[0].rows(-SELECTION).arrays


def eval_data() -> datasets.Arrays:
    return _data()[1].arrays


def calibration_data() -> datasets.Pixels:
    return _data()[0].rows(0, 512).images


def augment(images: torch.Tensor, progress: float) -> torch.Tensor:
    """Mirror half of the images and crop each: small at first, later whole with a moved frame."""
    count = len(images)
    mirrored = torch.rand(count, 1, 1, 1) < 0.5
    images = torch.where(mirrored, images.flip(-1), images)
    size = 24 if progress < SMALL_UNTIL else 32
    if size == 32:
        images = nn.functional.pad(images, (4, 4, 4, 4), mode="reflect")
    start = torch.randint(0, images.shape[-1] - size + 1, (2, count, 1))
    rows, columns = start + torch.arange(size)
    picked = torch.arange(count)[:, None, None]
    return images.movedim(1, -1)[picked, rows[:, :, None], columns[:, None]].movedim(-1, 1)


def labels() -> list[str]:
    return list(datasets.CIFAR10_LABELS)
