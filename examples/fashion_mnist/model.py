"""Fashion-MNIST: a small VGG-style network whose two wide layers make up most of its time.

Where the Debian package of the data cannot be had, a subset of MNIST takes its place and the
results say so.
"""

from functools import cache

import torch
from torch import nn

from compressors import datasets
from compressors.fetch import FetchFailed

CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DIGITS = tuple("0123456789")


class Normalise(nn.Module):
    """Pixels in [0, 1] to zero mean and unit variance, inside the exported graph."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image - 0.286) / 0.353


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution, batch normalisation and a rectifier."""
    return [
        nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def dense(inputs: int, outputs: int) -> list[nn.Module]:
    """A linear layer, batch normalisation, a rectifier and dropout."""
    return [
        nn.Linear(inputs, outputs, bias=False),
        nn.BatchNorm1d(outputs),
        nn.ReLU(),
        nn.Dropout(0.2),
    ]


def build_model() -> nn.Module:
    """10.7 million weights: three convolutions, then 3136 → 2048 → 2048 → 10."""
    return nn.Sequential(
        Normalise(),
        *conv(1, 16),
        nn.MaxPool2d(2),
        *conv(16, 32),
        nn.MaxPool2d(2),
        *conv(32, 64),
        nn.Flatten(),
        *dense(64 * 7 * 7, 2048),
        *dense(2048, 2048),
        nn.Linear(2048, 10),
    )


def build_student() -> nn.Module:
    """0.4 million weights: strides take the place of pooling, one narrow layer of two wide ones."""
    return nn.Sequential(
        Normalise(),
        *conv(1, 16, size=5, stride=2),
        *conv(16, 32, stride=2),
        *conv(32, 64),
        nn.Flatten(),
        *dense(64 * 7 * 7, 128),
        nn.Linear(128, 10),
    )


@cache
def _data() -> tuple[datasets.Images, datasets.Images, str]:
    """Training images, test images, and a remark where they are not Fashion-MNIST."""
    try:
        train, test = datasets.fashion_mnist()
    except FetchFailed as error:
        digits = datasets.mnist_subset()
        return digits.rows(0, 4_000), digits.rows(4_000), f"MNIST digits (5,000 images): {error}"
    return train, test, ""


def _held_out() -> int:
    """The last training images, a twelfth of them, are kept for gates and choices."""
    return len(_data()[0].labels) // 12


def train_data() -> datasets.Arrays:
    return _data()[0].rows(0, -_held_out()).arrays


def selection_data() -> datasets.Arrays:
    return _data()[0].rows(-_held_out()).arrays


def eval_data() -> datasets.Arrays:
    return _data()[1].arrays


def calibration_data() -> datasets.Pixels:
    return _data()[0].rows(0, 512).images


def augment(images: torch.Tensor) -> torch.Tensor:
    """Mirror every second batch; digits, which mirroring would change, stay."""
    mirror = not note() and bool(torch.rand(()) < 0.5)
    return images.flip(-1) if mirror else images


def labels() -> list[str]:
    return list(DIGITS if note() else CLOTHES)


def note() -> str:
    return _data()[2]
