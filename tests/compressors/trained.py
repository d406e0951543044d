"""A toy model trained and exported once, and what a changed file does on every runtime."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressors import export, techniques, training
from compressors import plan as plans
from compressors import source as sources
from compressors.bench import Bench
from tests.compressors import plans as written
from variants import artifact, runtimes
from variants.runtimes import Tensors

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


def answers(path: Path, runtime: str, rows: Tensors) -> NDArray[np.float32]:
    """The first output of the file on this runtime, `[n, …]`."""
    session = runtimes.find(runtime).load(path, 1)
    return np.asarray(next(iter(session.run(rows).values())), np.float32)
