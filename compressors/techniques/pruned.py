"""Structured pruning: the least important channels and neurons are removed, then it is fine-tuned.

The result is a smaller dense network, so every runtime is faster with it. Importance is the L2
norm of all weights that leave together; which ones those are follows from the dependency graph.
Source: G. Fang et al., "DepGraph: towards any structural pruning" (2023).
"""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from compressors import training
from compressors.anatomy import Anatomy
from compressors.bench import Bench
from compressors.export import quiet
from compressors.techniques import Shapes
from variants.errors import Invalid

if TYPE_CHECKING:
    from torch import nn

FAMILY: Literal["pruning"] = "pruning"
GUIDE = (
    "Faster on every runtime, because what is left is a smaller dense network; fine-tune after it."
)
HARDWARE = "any"
WORKS_ON: Literal["torch"] = "torch"
REQUIRES: tuple[str, ...] = ("torch", "torch_pruning")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How much is removed and how long the rest is trained.

    `ratio`: share of channels removed in every layer, from 0 to 1, the output layer excepted.
    `round_to`: widths stay multiples of this, because vector units work on such blocks.
    `epochs`, `learning_rate`: fine-tuning; a fraction of a pass is allowed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    round_to: Annotated[int, Field(ge=1)] = 16
    epochs: Annotated[float, Field(ge=0, le=1000)] = 0.5
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.02


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Needs a layer before the one that makes the output."""
    del config
    if len(anatomy.layers) < 2:
        return "there is no layer to prune before the one that makes the output"
    return ""


def compress(model: "nn.Module", config: Config, bench: Bench) -> "nn.Module":
    """A narrower copy of `model`, fine-tuned on the training rows."""
    smaller = narrow(model, config.ratio, config.round_to, bench)
    training.fit(smaller, bench, epochs=config.epochs, learning_rate=config.learning_rate)
    return smaller


def rebuild(model: "nn.Module", config: Config, shapes: Shapes, bench: Bench) -> "nn.Module":
    """The narrower module again: the same weights lead to the same channels."""
    del shapes
    return narrow(model, config.ratio, config.round_to, bench)


def narrow(model: "nn.Module", ratio: float, round_to: int, bench: Bench) -> "nn.Module":
    """A copy of `model` without `ratio` of each layer's channels; its outputs keep their shape.

    Raises `Invalid` where the outputs cannot be kept.
    """
    import torch
    import torch_pruning
    from torch import nn

    smaller = copy.deepcopy(model).eval()
    layers = [m for m in smaller.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    if not layers:
        raise Invalid("the model has no linear or convolutional layer to prune")
    example = tuple(
        torch.zeros((2, *tensor.shape), dtype=getattr(torch, tensor.dtype))
        for tensor in bench.spec.inputs
    )
    with quiet():
        torch_pruning.pruner.BasePruner(
            smaller,
            example,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=layers[-1:],
            round_to=round_to,
        ).step()
    with torch.inference_mode():
        found = tuple(smaller(*example).shape[1:])
    if found != bench.spec.outputs[0].shape:
        raise Invalid(
            f"pruning changed the output to {list(found)}; the last layer in the module's order "
            "must be the one that makes the output"
        )
    return smaller
