"""A toy model trained and exported once, and what a changed file does on every runtime."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressors import export, techniques, training
from compressors import plan as plans
from compressors import source as sources
from compressors.bench import Bench
from compressors.data import Data
from compressors.training_settings import Train
from tests.compressors import plans as written
from variants import artifact, runtimes
from variants.evaluation import EvaluationSet
from variants.runtimes import Tensors
from variants.spec import ModelSpec, TensorSpec

ONLY_FP32 = '[[recipe]]\nname = "fp32"\n'


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A trained torch module, its exported file and the bench that techniques get."""

    module: Any
    path: Path
    bench: Bench

    def converted(self, name: str, target: Path, **config: object) -> Path:
        """What the ONNX technique makes of the file, checked like an upload."""
        technique = techniques.find(name)
        assert technique.WORKS_ON == "onnx"
        technique.convert(self.path, target, technique.Config(**config), self.bench)
        artifact.check_onnx(target)
        return target

    def compressed(self, name: str, **config: object) -> Any:
        """What the torch technique makes of the module."""
        technique = techniques.find(name)
        assert technique.WORKS_ON == "torch"
        return technique.compress(self.module, technique.Config(**config), self.bench)

    def exported(self, module: Any, target: Path) -> Path:
        """The module's file, checked like an upload."""
        export.export(module, self.bench.spec, target)
        artifact.check_onnx(target)
        return target

    def calibrated_with(self, rows: Tensors) -> "Trained":
        """The same with other calibration rows."""
        data = replace(self.bench.data, calibration=rows)
        return replace(self, bench=replace(self.bench, data=data))

    def accuracy(self, path: Path, runtime: str) -> float:
        """Share of the test rows that the file gets right on this runtime."""
        rows = self.bench.data.test
        return float((answers(path, runtime, rows.inputs).argmax(1) == rows.labels).mean())

    def cosine(self, path: Path, runtime: str) -> float:
        """How alike the answers of the file and of the untouched one are, at most 1."""
        rows = self.bench.data.test.inputs
        a, b = answers(path, runtime, rows), answers(self.path, runtime, rows)
        return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def toy(root: Path) -> Trained:
    """The toy model after two passes over its rows."""
    import torch

    plan = plans.load(written.write(root, ONLY_FP32))
    source = sources.load(plan)
    bench = Bench(
        spec=source.spec,
        data=source.data,
        user=source.user,
        train=plan.train,
        seed=plan.seed,
        scratch=root,
    )
    assert source.user is not None
    torch.manual_seed(plan.seed)
    module = source.user.call("build_model")
    training.fit(module, bench, epochs=2, learning_rate=plan.train.learning_rate)
    export.export(module, source.spec, root / "toy.onnx")
    return Trained(module=module, path=root / "toy.onnx", bench=bench)


def hard(root: Path) -> Trained:
    """A narrow network with batch normalisation and an addition, on patterns in heavy noise."""
    import torch
    from torch import nn

    torch.manual_seed(4)

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.relu(x + self.norm(self.conv(x)))

    module = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Beside(),
        Beside(),
        nn.Conv2d(8, 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 16),
        nn.ReLU(),
        nn.Linear(16, 10),
    )
    random = np.random.default_rng(8)
    patterns = random.random((10, 1, 8, 8))

    def rows(n: int) -> EvaluationSet:
        labels = random.integers(0, 10, n)
        images = patterns[labels] + random.normal(scale=0.6, size=(n, 1, 8, 8))
        return EvaluationSet(inputs={"image": images.astype(np.float32)}, labels=labels)

    train = rows(4096)
    bench = Bench(
        spec=ModelSpec(
            name="hard",
            task="classification",
            inputs=(TensorSpec(name="image", dtype="float32", shape=(1, 8, 8)),),
            outputs=(TensorSpec(name="logits", dtype="float32", shape=(10,)),),
        ),
        data=Data(
            train=train,
            selection=rows(500),
            test=rows(2000),
            calibration={"image": train.inputs["image"][:256]},
        ),
        user=None,
        train=Train(batch_size=64),
        seed=1,
        scratch=root,
    )
    training.fit(module, bench, epochs=4, learning_rate=0.1)
    export.export(module, bench.spec, root / "hard.onnx")
    return Trained(module=module, path=root / "hard.onnx", bench=bench)


def with_outlier_channels(root: Path) -> Trained:
    """A transformer's feed-forward blocks, some of whose normalised channels are 50 times larger.

    The weights that read those channels are smaller by as much, so nothing but quantisation sees
    a difference; language models grow such channels by themselves.
    """
    import torch
    from torch import nn

    torch.manual_seed(5)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.wide, self.back = (
                nn.LayerNorm(64),
                nn.Linear(64, 128),
                nn.Linear(128, 64),
            )
            factor = torch.ones(64)
            factor[::16] = 50.0
            with torch.no_grad():
                self.norm.weight.mul_(factor)
                self.wide.weight.div_(factor)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.back(nn.functional.gelu(self.wide(self.norm(x))))

    class Pool(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=1)

    module = nn.Sequential(nn.Linear(8, 64), Block(), Block(), Pool(), nn.Linear(64, 4)).eval()
    random = np.random.default_rng(6)
    rows = {"image": random.normal(size=(128, 8, 8)).astype(np.float32)}
    labelled = EvaluationSet(inputs=rows, labels=np.zeros(128, np.int64))
    spec = ModelSpec(
        name="wide",
        task="classification",
        inputs=(TensorSpec(name="image", dtype="float32", shape=(8, 8)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(4,)),),
    )
    bench = Bench(
        spec=spec,
        data=Data(train=labelled, selection=labelled, test=labelled, calibration=rows),
        user=None,
        train=Train(),
        seed=1,
        scratch=root,
    )
    export.export(module, spec, root / "wide.onnx")
    return Trained(module=module, path=root / "wide.onnx", bench=bench)


def answers(path: Path, runtime: str, rows: Tensors) -> NDArray[np.float32]:
    """The first output of the file on this runtime, `[n, …]`."""
    session = runtimes.find(runtime).load(path, 1)
    return np.asarray(next(iter(session.run(rows).values())), np.float32)
