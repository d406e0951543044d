"""Your own model: four functions. The data here are 5,000 handwritten digits from a package."""

from torch import nn

from compressors.datasets import mnist_subset


def build_model():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


def train_data():
    return mnist_subset().rows(0, 4_000).arrays


def eval_data():
    return mnist_subset().rows(4_000).arrays


def calibration_data():
    return mnist_subset().rows(0, 256).images
