"""A smaller student that learns the parent's soft answers and the true labels together.

Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network" (2015).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from compressors import students
from compressors.bench import Bench
from compressors.students import lacking, unsuitable
from compressors.teacher import Lesson, Live, answers, teach
from compressors.techniques import Shapes

if TYPE_CHECKING:
    from torch import nn

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
    student = students.make(model, config, bench)
    if config.teacher == "live":
        live = Live(model, bench)
        teach(student, config, bench, answer=lambda _, batch: live(batch))
    else:
        known = answers(model, bench)
        teach(student, config, bench, answer=lambda rows, _: known[rows])
    return student


def rebuild(model: "nn.Module", config: Config, shapes: Shapes, bench: Bench) -> "nn.Module":
    """The student, untrained."""
    return students.again(model, config, shapes, bench)
