"""Two small networks, each trained once on generated rows: one for images and one for tokens.

image = small_nets.image()
smaller = pruned.compress(image.model, pruned.Config(ratio=0.5), image.bench)
image.accuracy(smaller)
"""

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
import torch_pruning
from numpy.typing import NDArray
from torch import nn

from compressors import export, training, weights
from compressors.bench import Bench
from compressors.data import Data
from compressors.training_settings import Train
from variants import runtimes
from variants.evaluation import EvaluationSet
from variants.spec import ModelSpec, TensorSpec

CLASSES = 8
SIDE = 10
TOKENS = 16
WORDS = 96


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A trained network and the bench it was trained on."""

    model: nn.Module
    bench: Bench

    def accuracy(self, model: nn.Module) -> float:
        """Share of the test rows that `model` gets right."""
        rows = self.bench.data.test
        answers = training.logits(model, rows, self.bench).argmax(1).numpy()
        return float((answers == rows.labels).mean())

    def answers(self, model: nn.Module) -> torch.Tensor:
        """Logits of the first test rows."""
        inputs, _ = training.tensors(self.bench.data.test)
        with torch.no_grad():
            result: torch.Tensor = model.eval()(*(x[:64] for x in inputs))
        return result

    def assert_rebuilds(
        self, technique: Any, config: Any, parent: nn.Module, smaller: nn.Module
    ) -> None:
        """A later build's module, filled with the stored weights, gives the same answers."""
        path = self.bench.scratch / "weights.safetensors"
        weights.save(smaller, path)
        again = technique.rebuild(parent, config, weights.shapes(path), self.bench)
        weights.load(again, path)
        assert torch.allclose(self.answers(again), self.answers(smaller), atol=1e-4)

    def onnx(self, model: nn.Module, name: str) -> Path:
        """The module as an ONNX file."""
        path = self.bench.scratch / f"{name}.onnx"
        export.export(model, self.bench.spec, path)
        return path


def count(model: nn.Module) -> int:
    """Weights in the module."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiplications(trained: Trained, model: nn.Module) -> float:
    """Multiply-accumulates for one row."""
    row = tuple(x[:1] for x in training.tensors(trained.bench.data.test)[0])
    return float(torch_pruning.utils.count_ops_and_params(model, row)[0])


def latency_ratio(trained: Trained, slow: Path, fast: Path, batch: int = 32) -> float:
    """How many times longer one file takes than the other: medians of interleaved calls on ONNX
    Runtime with one thread.
    """
    sessions = [runtimes.find("onnxruntime").load(path, 1) for path in (slow, fast)]
    rows = {name: x[:batch] for name, x in trained.bench.data.test.inputs.items()}
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(30):
        for session, times in zip(sessions, taken, strict=True):
            start = time.perf_counter()
            session.run(rows)
            times.append(time.perf_counter() - start)
    return float(np.median(taken[0]) / np.median(taken[1]))


def run(trained: Trained, path: Path, runtime: str) -> NDArray[np.float32]:
    """The file's answers to the first test rows."""
    rows = {name: x[:64] for name, x in trained.bench.data.test.inputs.items()}
    return np.asarray(next(iter(runtimes.find(runtime).load(path, 1).run(rows).values())))


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.inside(x))


class ImageNet(nn.Module):
    """Three residual blocks between a convolution and a linear layer."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(*(Residual(channels) for _ in range(3)))
        self.head = nn.Sequential(nn.Linear(channels, 64), nn.ReLU(), nn.Linear(64, CLASSES))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.blocks(self.stem(image)).amax((2, 3)))
        return result


class Attention(nn.Module):
    """Multi-head attention with its four layers by name."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = hidden // heads
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.output = nn.Linear(hidden, hidden)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = nn.functional.scaled_dot_product_attention(
            self._split(self.query(x)), self._split(self.key(x)), self._split(self.value(x))
        )
        result: torch.Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return result


class Layer(nn.Module):
    """One encoder layer, normalised after each addition."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(hidden, heads)
        self.attention_norm = nn.LayerNorm(hidden)
        self.intermediate = nn.Linear(hidden, 4 * hidden)
        self.output = nn.Linear(4 * hidden, hidden)
        self.output_norm = nn.LayerNorm(hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.attention_norm(x + self.attention(x))
        inner = nn.functional.gelu(self.intermediate(x))
        result: torch.Tensor = self.output_norm(x + self.output(inner))
        return result


class TokenNet(nn.Module):
    """A small encoder of four layers."""

    def __init__(self, hidden: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, hidden)
        self.places = nn.Embedding(TOKENS, hidden)
        self.layers = nn.ModuleList(Layer(hidden, heads) for _ in range(4))
        self.classifier = nn.Linear(hidden, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens) + self.places(torch.arange(TOKENS))
        for layer in self.layers:
            x = layer(x)
        result: torch.Tensor = self.classifier(x.mean(1))
        return result


@cache
def image() -> Trained:
    """A convolutional network that finds which of eight patterns lies somewhere in noise."""
    return _trained(
        ImageNet(),
        _image_rows,
        TensorSpec(name="image", dtype="float32", shape=(1, SIDE, SIDE)),
        Train(epochs=5, batch_size=64, learning_rate=0.1),
    )


@cache
def tokens() -> Trained:
    """An encoder that finds the subject that most words of a text belong to."""
    return _trained(
        TokenNet(),
        _token_rows,
        TensorSpec(name="tokens", dtype="int64", shape=(TOKENS,)),
        Train(epochs=4, batch_size=64, learning_rate=0.005, optimizer="adamw", weight_decay=0.01),
    )


@cache
def wide() -> tuple[Trained, Path]:
    """A wider network of the same form, untrained, for times: 96 channels, and its file."""
    torch.manual_seed(0)
    x = Trained(model=ImageNet(channels=96).eval(), bench=image().bench)
    return x, x.onnx(x.model, "wide")


def _trained(model: nn.Module, rows: Any, spec: TensorSpec, train: Train) -> Trained:
    torch.manual_seed(0)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    training_rows = rows(1, 2048)
    bench = Bench(
        spec=ModelSpec(
            name="small",
            task="classification",
            inputs=(spec,),
            outputs=(TensorSpec(name="logits", dtype="float32", shape=(CLASSES,)),),
        ),
        data=Data(
            train=training_rows,
            selection=rows(2, 256),
            test=rows(3, 1024),
            calibration={k: v[:128] for k, v in training_rows.inputs.items()},
        ),
        user=None,
        train=train,
        seed=5,
        scratch=Path(mkdtemp(prefix="gearshift-small-nets-")),
    )
    training.fit(model, bench, epochs=train.epochs, learning_rate=train.learning_rate)
    return Trained(model=model, bench=bench)


def _image_rows(seed: int, n: int) -> EvaluationSet:
    patterns = np.random.default_rng(7).normal(size=(CLASSES, 5, 5)).astype(np.float32)
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, n)
    images = random.normal(scale=0.5, size=(n, 1, SIDE, SIDE)).astype(np.float32)
    for row, (label, (top, left)) in enumerate(
        zip(labels, random.integers(0, SIDE - 5, (n, 2)), strict=True)
    ):
        images[row, 0, top : top + 5, left : left + 5] += patterns[label]
    return EvaluationSet(inputs={"image": images}, labels=labels)


def _token_rows(seed: int, n: int) -> EvaluationSet:
    """Three words of the class's eight, one of another class, and words that mean nothing."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, n)
    words = random.integers(CLASSES * 8, WORDS, (n, TOKENS))
    words[:, :3] = labels[:, None] * 8 + random.integers(0, 8, (n, 3))
    words[:, 3:5] = random.integers(0, CLASSES, (n, 1)) * 8 + random.integers(0, 8, (n, 2))
    return EvaluationSet(inputs={"tokens": random.permuted(words, axis=1)}, labels=labels)
