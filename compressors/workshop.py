"""Makes one recipe's ONNX file: torch steps, export, ONNX steps."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compressors import anatomy, export, gauge, techniques, training, weights
from compressors.anatomy import Anatomy
from compressors.bench import Bench
from compressors.evaluate import DRIFT_ROWS
from compressors.plan import Recipe, TypedStep
from compressors.records import Records
from compressors.source import Source
from variants.errors import Invalid
from variants.evidence import LayerSensitivity
from variants.measure import Progress

if TYPE_CHECKING:
    from torch import nn

Phase = Callable[[str, float], Progress]
"""Called as a phase begins with its name and about how many seconds it takes."""

SECONDS_PER_EPOCH = 35.0
"""A guess for the progress bar alone; the bar corrects itself as it goes."""
SECONDS_PER_EXPORT = 4.0
SECONDS_PER_CONVERSION = 1.0


def work_s(recipe: Recipe, bench_epochs: float) -> float:
    """About how long `Workshop.make` takes, in seconds."""
    epochs = bench_epochs if recipe.parent is None else 0.0
    epochs += sum(float(step.config.epochs) for step in recipe.steps_on("torch"))
    exports = recipe.parent is None or bool(recipe.steps_on("torch"))
    conversions = len(recipe.steps_on("onnx")) * SECONDS_PER_CONVERSION
    return epochs * SECONDS_PER_EPOCH + exports * SECONDS_PER_EXPORT + conversions


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A built ancestor: its recipe, build key, manifest and artifact."""

    recipe: Recipe
    key: str
    manifest_id: str
    artifact: Path
    parent: "Built | None"


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A recipe's ONNX file.

    `answers` are the torch module's scores on the first selection rows, `[rows, classes] float32`,
    where the file was exported now; `exact` tells whether the file is to give the same.
    `sensitivity` is what techniques measured of single layers on the way.
    """

    path: Path
    answers: NDArray[np.float32] | None = None
    exact: bool = False
    sensitivity: tuple[LayerSensitivity, ...] = ()


class Workshop:
    """Applies recipes to one source."""

    def __init__(self, source: Source, bench: Bench, records: Records) -> None:
        self._source = source
        self._noted: list[LayerSensitivity] = []
        self.bench = replace(bench, note_sensitivity=self._note)
        self._records = records

    def make(self, recipe: Recipe, key: str, parent: Built | None, phase: Phase) -> Made:
        """The recipe's ONNX file in the bench's scratch folder.

        Raises whatever a technique, the exporter or the user's functions raise.
        """
        self._noted.clear()
        at = self.bench.scratch / "start.onnx"
        answers = None
        if self._source.onnx is not None and parent is None:
            shutil.copyfile(self._source.onnx, at)
        elif parent is None or recipe.steps_on("torch"):
            module = self.module(recipe, key, parent, phase)
            report = phase("exporting", SECONDS_PER_EXPORT)
            rows = self.bench.data.selection.first(DRIFT_ROWS)
            answers = training.logits(module, rows, self.bench).numpy().astype(np.float32)
            export.export(module, self._source.spec, at)
            report(1)
        else:
            shutil.copyfile(parent.artifact, at)
        for number, step in enumerate(recipe.steps_on("onnx")):
            at = self.convert(step, at, self.bench.scratch / f"step-{number}.onnx", phase)
        exact = all(step.technique == "fp32" for step in recipe.steps_on("onnx"))
        return Made(path=at, answers=answers, exact=exact, sensitivity=tuple(self._noted))

    def _note(self, layer: str, metric: str, value: float) -> None:
        self._noted.append(LayerSensitivity(layer=layer, metric=metric, value=value))

    def anatomy(self) -> Anatomy:
        """What the source's model is made of."""
        if self._source.onnx is not None:
            return anatomy.of_onnx(self._source.onnx)
        return anatomy.of_module(self._fresh(), gauge.example(self.bench))

    def convert(self, step: TypedStep, source: Path, target: Path, phase: Phase) -> Path:
        """Write what one step makes of the file `source` to `target`, which it returns."""
        technique = techniques.find(step.technique)
        assert technique.WORKS_ON == "onnx"
        report = phase(step.technique, SECONDS_PER_CONVERSION)
        technique.convert(source, target, step.config, replace(self.bench, progress=report))
        report(1)
        return target

    def module(self, recipe: Recipe, key: str, parent: Built | None, phase: Phase) -> "nn.Module":
        """The recipe's torch module. What an interrupted build has stored is not trained again."""
        module = self._trained(key, phase) if parent is None else self._restored(parent)
        for number, step in enumerate(recipe.steps_on("torch")):
            path = self._records.weights_path(key, number + (parent is None))
            if path.exists():
                module = self._rebuilt(module, step, path)
                continue
            technique = techniques.find(step.technique)
            assert technique.WORKS_ON == "torch"
            report = phase(step.technique, step.config.epochs * SECONDS_PER_EPOCH)
            module = technique.compress(module, step.config, replace(self.bench, progress=report))
            weights.save(module, path)
        return module

    def _trained(self, key: str, phase: Phase) -> "nn.Module":
        module = self._fresh()
        settings = self.bench.train
        path = self._records.weights_path(key, 0)
        if path.exists():
            weights.load(module, path)
        elif settings.epochs > 0:
            report = phase("training", settings.epochs * SECONDS_PER_EPOCH)
            training.fit(
                module,
                replace(self.bench, progress=report),
                epochs=settings.epochs,
                learning_rate=settings.learning_rate,
            )
        weights.save(module, path)
        return module

    def _restored(self, built: Built) -> "nn.Module":
        """The module of an ancestor from its stored weights."""
        if built.parent is None:
            module = self._fresh()
            weights.load(module, self._records.weights_path(built.key, 0))
        else:
            module = self._restored(built.parent)
        for number, step in enumerate(built.recipe.steps_on("torch")):
            path = self._records.weights_path(built.key, number + (built.parent is None))
            module = self._rebuilt(module, step, path)
        return module

    def _rebuilt(self, module: "nn.Module", step: TypedStep, path: Path) -> "nn.Module":
        technique = techniques.find(step.technique)
        assert technique.WORKS_ON == "torch"
        rebuilt = technique.rebuild(module, step.config, weights.shapes(path), self.bench)
        weights.load(rebuilt, path)
        return rebuilt

    def _fresh(self) -> "nn.Module":
        import torch

        user = self._source.user
        assert user is not None, "a plan without a Python file has no torch steps"
        torch.manual_seed(self.bench.seed)
        module = user.call("build_model")
        if not isinstance(module, torch.nn.Module):
            raise Invalid(
                f"{user.path}: build_model() returned {type(module).__name__}, "
                "not a torch.nn.Module"
            )
        return module.eval()
