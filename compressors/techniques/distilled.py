"""A smaller student that learns the parent's soft answers and the true labels together.

loss = soft_share × T² × KL(softmax(teacher ÷ T) ‖ softmax(student ÷ T))
       + (1 − soft_share) × cross-entropy(student, label)

Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network" (2015),
section 2; T² keeps the soft gradients' size when the temperature changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from compressors import training
from compressors.anatomy import Anatomy
from compressors.bench import Bench
from compressors.techniques import Shapes
from compressors.techniques.pruned import narrow
from variants.errors import Invalid

if TYPE_CHECKING:
    from torch import Tensor, nn

FAMILY: Literal["distillation"] = "distillation"
GUIDE = "The most compression for a point of accuracy, where there is time to train a student."
HARDWARE = "any"
WORKS_ON: Literal["torch"] = "torch"
REQUIRES: tuple[str, ...] = ("torch", "torch_pruning")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Which student, and how it is taught.

    `width`: without it the student is the user's `build_student()`; with it, the parent narrowed
    to this share of its channels, from 0 to 1.
    `temperature`: softens both distributions; 1 leaves them as they are.
    `soft_share`: weight of the teacher against the labels, from 0 to 1.
    `epochs`, `learning_rate`: the student's training.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    width: Annotated[float, Field(gt=0, lt=1)] | None = None
    temperature: Annotated[float, Field(ge=1, le=100)] = 4.0
    soft_share: Annotated[float, Field(ge=0, le=1)] = 0.7
    epochs: Annotated[float, Field(gt=0, le=1000)] = 3.0
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.1


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Suits every model: whether there is a student is asked of the model file."""
    del anatomy, config
    return ""


def compress(model: "nn.Module", config: Config, bench: Bench) -> "nn.Module":
    """A student taught on the training rows; the teacher answers each row once, beforehand."""
    import torch
    from torch.nn import functional

    rows = bench.data.training()
    _, labels = training.tensors(rows)
    soft = torch.softmax(training.logits(model, rows, bench) / config.temperature, dim=1)

    def loss(student: "Tensor", at: "Tensor", batch: Sequence["Tensor"]) -> "Tensor":
        del batch
        towards_teacher = functional.kl_div(
            torch.log_softmax(student / config.temperature, dim=1),
            soft[at].to(student.device),
            reduction="batchmean",
        )
        towards_label = functional.cross_entropy(student, labels[at].to(student.device))
        weight = config.soft_share * config.temperature**2
        return weight * towards_teacher + (1 - config.soft_share) * towards_label

    student = _student(model, config, bench)
    training.fit(
        student, bench, epochs=config.epochs, learning_rate=config.learning_rate, loss=loss
    )
    return student


def rebuild(model: "nn.Module", config: Config, shapes: Shapes, bench: Bench) -> "nn.Module":
    """The student, untrained."""
    del shapes
    return _student(model, config, bench)


def _student(model: "nn.Module", config: Config, bench: Bench) -> "nn.Module":
    import torch

    if config.width is not None:
        return narrow(model, 1 - config.width, 4, bench)
    if bench.user is None or not bench.user.offers("build_student"):
        raise Invalid("distilled needs build_student() in the model file, or a width")
    torch.manual_seed(bench.seed)
    student: nn.Module = bench.user.call("build_student")
    return student
