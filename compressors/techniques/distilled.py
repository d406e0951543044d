"""A smaller student that learns the parent's soft answers and the true labels together.

Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network" (2015).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from compressors import students, training
from compressors.bench import Bench
from compressors.students import lacking, unsuitable
from compressors.teacher import Lesson, Live, answers, towards
from compressors.techniques import Shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["lacking", "unsuitable"]

FAMILY: Literal["distillation"] = "distillation"
GUIDE = "The most compression for a point of accuracy, where there is time to train a student."
HARDWARE = "any"
KNOBS: dict[str, tuple[Any, ...]] = {
    "width": (0.25, 0.375, 0.5, 0.75),
    "temperature": (2.0, 4.0, 8.0),
}
WORKS_ON: Literal["torch"] = "torch"
REQUIRES: tuple[str, ...] = ("torch", "torch_pruning")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(Lesson):
    """What the teacher answers.

    `teacher`: `cached` answers each row once, as it is, and the answers are kept; `live` answers
    every augmented batch, which costs its forward pass and pays in a long training.
    """

    teacher: Literal["cached", "live"] = "cached"


def compress(model: "nn.Module", config: Config, bench: Bench) -> "nn.Module":
    """A student taught on the training rows."""
    _, labels = training.tensors(bench.data.training())
    live = Live(model, bench) if config.teacher == "live" else None
    known = answers(model, bench) if live is None else labels

    def loss(student: "Tensor", rows: "Tensor", batch: Sequence["Tensor"]) -> "Tensor":
        teacher = known[rows].to(student.device) if live is None else live(batch)
        return towards(student, teacher, labels[rows].to(student.device), config)

    student = students.make(model, config, bench)
    training.fit(
        student, bench, epochs=config.epochs, learning_rate=config.learning_rate, loss=loss
    )
    return student


def rebuild(model: "nn.Module", config: Config, shapes: Shapes, bench: Bench) -> "nn.Module":
    """The student, untrained."""
    del shapes
    return students.make(model, config, bench)
