"""What the teacher says about training rows: computed once and kept, or asked for every batch."""

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from compressors import training
from compressors.bench import Bench
from compressors.students import Student

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson(Student):
    """How the student is taught, whatever else it is shown.

    `temperature`: softens both distributions; 1 leaves them as they are.
    `soft_share`: weight of the teacher against the labels, from 0 to 1.
    `epochs`, `learning_rate`: the student's training.
    """

    temperature: Annotated[float, Field(ge=1, le=100)] = 4.0
    soft_share: Annotated[float, Field(ge=0, le=1)] = 0.7
    epochs: Annotated[float, Field(gt=0, le=1000)] = 3.0
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.1


def towards(student: "Tensor", teacher: "Tensor", labels: "Tensor", lesson: Lesson) -> "Tensor":
    """The distillation loss of one batch, from logits `[batch, classes]` and labels `[batch]`.

    soft_share × T² × KL(softmax(teacher ÷ T) ‖ softmax(student ÷ T))
    + (1 − soft_share) × cross-entropy(student, label)

    Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network" (2015),
    section 2; T² keeps the soft gradients' size when the temperature changes.
    """
    import torch
    from torch.nn import functional

    soft = functional.kl_div(
        torch.log_softmax(student / lesson.temperature, dim=1),
        torch.log_softmax(teacher / lesson.temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    hard = functional.cross_entropy(student, labels)
    return lesson.soft_share * lesson.temperature**2 * soft + (1 - lesson.soft_share) * hard


def teach(
    student: "nn.Module",
    lesson: Lesson,
    bench: Bench,
    *,
    answer: Callable[["Tensor", Sequence["Tensor"]], "Tensor"],
    further: "Callable[[Sequence[Tensor]], Tensor] | None" = None,
    helper: "nn.Module | None" = None,
) -> None:
    """Train the student in place; leaves it in eval mode.

    `answer` gives the teacher's logits for the rows of these numbers and what augmentation made of
    them. `further` is a loss beside that on answers, asked when both have seen the batch; `helper`
    holds weights of its own.
    """
    _, labels = training.tensors(bench.data.training())

    def loss(logits: "Tensor", rows: "Tensor", batch: Sequence["Tensor"]) -> "Tensor":
        soft = answer(rows, batch).to(logits.device)
        value = towards(logits, soft, labels[rows].to(logits.device), lesson)
        return value if further is None else value + further(batch)

    training.fit(
        student,
        bench,
        epochs=lesson.epochs,
        learning_rate=lesson.learning_rate,
        loss=loss,
        helper=helper,
    )


def answers(teacher: "nn.Module", bench: Bench) -> "Tensor":
    """The teacher's logits for the training rows as they are, `[n, classes] float32`.

    They are computed once and kept for later recipes and builds, under a digest of the teacher and
    the rows.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    rows = bench.data.training()
    path = (bench.kept or bench.scratch) / f"{_digest(teacher, bench)}.answers.safetensors"
    try:
        return load_file(path)["logits"]
    except (SafetensorError, OSError, KeyError):
        found = training.logits(teacher, rows, bench)
        aside = path.with_suffix(".partial")
        save_file({"logits": found}, aside)
        aside.replace(path)
        return found


def _digest(teacher: "nn.Module", bench: Bench) -> str:
    """SHA-256 over the teacher's form, code and weights, and the training rows."""
    digest = hashlib.sha256(repr(teacher).encode())
    if bench.user is not None:
        digest.update(Path(bench.user.path).read_bytes())
    for name, tensor in teacher.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    for array in bench.data.training().inputs.values():
        digest.update(repr((array.dtype.name, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class Live:
    """A copy of the teacher on the training device that answers batches.

    Source: L. Beyer et al., "Knowledge distillation: a good teacher is patient and consistent"
    (2022): teacher and student see the same augmented picture.
    """

    def __init__(self, teacher: "nn.Module", bench: Bench) -> None:
        self.module = copy.deepcopy(teacher).to(bench.train.device).eval()
        self.module.requires_grad_(False)

    def __call__(self, batch: Sequence["Tensor"]) -> "Tensor":
        """Logits `[batch, classes]`, without a gradient."""
        import torch

        with torch.no_grad():
            logits: Tensor = self.module(*batch)
        return logits
