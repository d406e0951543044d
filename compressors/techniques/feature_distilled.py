"""A student that learns the parent's answers and, through projections, its inner features.

loss = distillation loss + weight × mean over pairs of |P(student) − teacher|² ÷ |teacher|²

P is a learned linear map of channels, left behind after the training. Source: A. Romero et al.,
"FitNets: hints for thin deep nets" (2015), equation 3; here the hints go along with the answers
instead of before them, and are relative to the teacher's size, so that pairs weigh the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from compressors import students
from compressors.bench import Bench
from compressors.students import lacking, unsuitable
from compressors.taps import pairs, same_size, side_by_side
from compressors.teacher import Lesson, Live, teach
from compressors.techniques import Shapes
from variants.errors import Invalid

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["lacking", "unsuitable"]

FAMILY: Literal["distillation"] = "distillation"
GUIDE = (
    "Where a deep student starts from nothing and answers alone teach it slowly; "
    "a step costs the teacher's pass too."
)
HARDWARE = "any"
KNOBS: dict[str, tuple[Any, ...]] = {"width": (0.25, 0.375, 0.5, 0.75), "weight": (0.3, 1.0)}
WORKS_ON: Literal["torch"] = "torch"
REQUIRES: tuple[str, ...] = ("torch", "torch_pruning")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(Lesson):
    """Which features are compared, and how much that counts.

    `weight`: of the features' loss beside that of the answers.
    `stages`: pairs that are chosen, evenly spaced over both networks.
    `pairs`: modules by name instead, each the teacher's and the student's.
    """

    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    stages: Annotated[int, Field(ge=1, le=64)] = 3
    pairs: tuple[tuple[str, str], ...] = ()


def compress(model: "nn.Module", config: Config, bench: Bench) -> "nn.Module":
    """A student taught on the training rows; the teacher sees every augmented batch.

    Raises `Invalid` where a named module is not there or no features can be compared.
    """
    import torch
    from torch import nn

    student = students.make(model, config, bench)
    teacher = Live(model, bench)
    chosen = config.pairs or pairs(model, student, config.stages, bench)
    with side_by_side(teacher.module, student, chosen, bench) as features:
        projections = nn.ModuleList(_projection(ours, theirs) for theirs, ours in features())

        def hints(_: Sequence["Tensor"]) -> "Tensor":
            parts = zip(projections, features(), strict=True)
            return (
                config.weight
                * torch.stack(
                    [_distance(project(ours), theirs) for project, (theirs, ours) in parts]
                ).mean()
            )

        teach(
            student,
            config,
            bench,
            answer=lambda _, batch: teacher(batch),
            further=hints,
            helper=projections,
        )
    return student


def rebuild(model: "nn.Module", config: Config, shapes: Shapes, bench: Bench) -> "nn.Module":
    """The student, untrained."""
    return students.again(model, config, shapes, bench)


def _projection(ours: "Tensor", theirs: "Tensor") -> "nn.Module":
    """From the student's channels to the teacher's, for features of the same number of axes."""
    from torch import nn

    if ours.ndim != theirs.ndim:
        raise Invalid(
            f"features of shape {list(ours.shape)} cannot be compared with {list(theirs.shape)}"
        )
    if ours.ndim == 4:
        return nn.Conv2d(ours.shape[1], theirs.shape[1], 1)
    return nn.Linear(ours.shape[-1], theirs.shape[-1])


def _distance(ours: "Tensor", theirs: "Tensor") -> "Tensor":
    """Mean square of the difference as a share of the teacher's own mean square."""
    ours, theirs = same_size(ours, theirs)
    return (ours - theirs).square().mean() / theirs.square().mean().clamp_min(1e-12)
