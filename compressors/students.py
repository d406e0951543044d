"""The student of a distillation: the user's own, the parent made smaller, or one by name."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from compressors import anatomy, resize
from compressors.anatomy import Anatomy
from compressors.architectures import BLOCKS, SMALLEST, Architecture
from compressors.bench import Bench
from compressors.techniques import Promised, Shapes
from compressors.techniques.pruned import narrow
from variants.errors import Invalid
from variants.spec import TensorSpec

if TYPE_CHECKING:
    from torch import nn

ROUND_TO = 4
"""Channels of a narrowed parent are multiples of this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Student:
    """Which student.

    `student`: `user` takes `build_student()` of the model file, unless `width` or `layers` says how
    to make the parent smaller; `mobilenet`, `efficientnet` and `resnet` are built for the model's
    images.
    `width`: the parent narrowed to this share of its channels; for a student by name, its channels
    against those of its family, which may be more.
    `depth`: for a student by name, its blocks per stage against those of its family.
    `layers`: the parent with so many of its repeated blocks, evenly spaced, and their weights.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    student: Literal["user", "mobilenet", "efficientnet", "resnet"] = "user"
    width: Annotated[float, Field(gt=0, le=8)] | None = None
    depth: Annotated[float, Field(gt=0, le=8)] | None = None
    layers: Annotated[int, Field(ge=1)] | None = None


def lacking(config: Student, promised: Promised) -> str:
    """What keeps the plan's model from having this student; empty where nothing does."""
    if config.student != "user" and config.layers is not None:
        return f"'layers' shortens the parent; a {config.student} takes 'depth'"
    if config.student != "user":
        return no_image(promised.inputs)
    return _lacking_parent(config, promised)


def _lacking_parent(config: Student, promised: Promised) -> str:
    if config.depth is not None:
        return f"'depth' goes with a student by name: {', '.join(BLOCKS)}"
    if config.width is not None and config.layers is not None:
        return "give either 'width' or 'layers'"
    if config.width is not None and config.width >= 1:
        return f"a narrowed parent has a 'width' below 1, not {config.width:g}"
    if config.width is None and config.layers is None and "build_student" not in promised.offered:
        return (
            "it needs build_student() in the model file, a 'width', 'layers' or a student by name"
        )
    return ""


def no_image(inputs: tuple[TensorSpec, ...]) -> str:
    """Why students by name do not take these inputs; empty where they do."""
    picture = inputs[0]
    if len(inputs) != 1 or picture.dtype != "float32" or len(picture.shape) != 3:
        return (
            "students by name are image classifiers, for one float32 input [channels, height, "
            f"width]; this model has {', '.join(f'{x.dtype}{list(x.shape)}' for x in inputs)}"
        )
    if min(picture.shape[1:]) < SMALLEST:
        return (
            f"students by name take images from {SMALLEST}×{SMALLEST}, "
            f"not {picture.shape[1]}×{picture.shape[2]}"
        )
    return ""


def unsuitable(model: Anatomy, config: Student) -> str:
    """A shortened parent needs more repeated blocks than are kept."""
    if config.layers is not None and model.repeated_blocks < config.layers:
        return (
            f"it repeats {model.repeated_blocks} blocks, so {config.layers} cannot be kept "
            "of more (layers)"
        )
    return ""


def make(parent: "nn.Module", config: Student, bench: Bench) -> "nn.Module":
    """The student, not yet taught; the parent stays as it was."""
    import torch

    torch.manual_seed(bench.seed)
    if config.student != "user":
        named = Architecture(
            block=config.student, width=config.width or 1.0, depth=config.depth or 1.0
        )
        return for_images(parent, named, bench)
    if config.width is not None:
        return narrow(parent, 1 - config.width, ROUND_TO, bench)
    if config.layers is not None:
        return shorten(parent, config.layers, bench)
    if bench.user is None or not bench.user.offers("build_student"):
        raise Invalid("distilled needs build_student() in the model file, or a width")
    student: nn.Module = bench.user.call("build_student")
    return student


def again(parent: "nn.Module", config: Student, shapes: Shapes, bench: Bench) -> "nn.Module":
    """The student for stored weights of these shapes."""
    if config.student == "user" and config.width is not None:
        return resize.resized(parent, shapes)
    return make(parent, config, bench)


def for_images(parent: "nn.Module", architecture: Architecture, bench: Bench) -> "nn.Module":
    """An untrained network of this architecture that prepares its pixels as the parent does."""
    from torch import nn

    picture = bench.spec.inputs[0].shape
    return nn.Sequential(
        _preparation(parent, picture),
        architecture.build(
            channels=picture[0], size=min(picture[1:]), classes=bench.spec.outputs[0].shape[0]
        ),
    )


def _preparation(parent: "nn.Module", picture: tuple[int, ...]) -> "nn.Module":
    """What a parent in sequence does to pixels before its first weights; else their own statistics.

    Only modules without weights that keep the picture's shape.
    """
    import torch
    from torch import nn

    x = torch.zeros((2, *picture))
    leading: list[nn.Module] = []
    for child in parent.children() if isinstance(parent, nn.Sequential) else ():
        if any(True for _ in child.parameters()):
            break
        with torch.no_grad():
            x = child(x)
        if tuple(x.shape) != (2, *picture):
            break
        leading.append(copy.deepcopy(child))
    return nn.Sequential(*leading) if leading else nn.BatchNorm2d(picture[0], affine=False)


def shorten(parent: "nn.Module", layers: int, bench: Bench) -> "nn.Module":
    """A copy of `parent` that keeps this many blocks of its longest run of equal ones.

    Raises `Invalid` where no run is longer, or where the shorter module's answers have another
    shape.
    """
    import torch
    from torch import nn

    smaller = copy.deepcopy(parent).eval()
    owner, run = max(_runs(smaller), key=lambda found: len(found[1]), default=("", ()))
    if len(run) <= layers:
        raise Invalid(f"the longest run of equal blocks has {len(run)}; {layers} are to be kept")
    container = smaller.get_submodule(owner)
    assert isinstance(container, nn.Sequential | nn.ModuleList)
    keep = {run[index] for index in spaced(len(run), layers)}
    for index in sorted(set(run) - keep, reverse=True):
        del container[index]
    example = tuple(
        torch.zeros((2, *tensor.shape), dtype=getattr(torch, tensor.dtype))
        for tensor in bench.spec.inputs
    )
    with torch.inference_mode():
        found = tuple(smaller(*example).shape[1:])
    if found != bench.spec.outputs[0].shape:
        raise Invalid(f"without some of {owner!r} the output is {list(found)}")
    return smaller


def _runs(model: "nn.Module") -> Iterator[tuple[str, tuple[int, ...]]]:
    """Places of each run of equal neighbours, by the name of their list or sequence."""
    for owner, repeats in anatomy.repeated(model):
        order = [name for name, _ in model.get_submodule(owner).named_children()]
        at = [order.index(name) for name in repeats]
        for _, group in groupby(enumerate(at), key=lambda pair: pair[1] - pair[0]):
            places = [place for _, place in group]
            yield owner, (places[0] - 1, *places)


def spaced(count: int, wanted: int) -> tuple[int, ...]:
    """`wanted` of `count` places, evenly spaced, the first and the last among them."""
    if wanted == 1:
        return (count - 1,)
    return tuple(round(index * (count - 1) / (wanted - 1)) for index in range(wanted))
