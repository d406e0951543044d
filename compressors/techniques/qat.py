"""Quantisation-aware training: the network is trained with the rounding that it is served with.

Weights are rounded to 8, 4 or 2 bits (−1, 0 and 1) and the inputs of every layer to 8 bits in each
forward pass; the gradient goes through as if they were not (straight-through estimator). Batch
normalisation is folded into the layers before. Sources: B. Jacob et al., "Quantization and training
of neural networks for efficient integer-arithmetic-only inference" (2018), section 3; S. K. Esser
et al., "Learned step size quantization" (2020).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from compressors import training
from compressors.anatomy import Anatomy
from compressors.bench import Bench
from compressors.techniques import Shapes

if TYPE_CHECKING:
    from torch import nn

FAMILY: Literal["precision"] = "precision"
GUIDE = "Where int8 loses too much, or for weights of 4 or 2 bits; needs time to train."
HARDWARE = "fast with VNNI or its like"
KNOBS: dict[str, tuple[Any, ...]] = {"bits": (8, 4)}
WORKS_ON: Literal["torch"] = "torch"
REQUIRES: tuple[str, ...] = ("torch",)

CALIBRATION_BATCHES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How weights are rounded and how long that is trained.

    `bits`: of the weights, 8, 4 or 2; the first and the last layer have 8.
    `epochs`, `learning_rate`: fine-tuning; a fraction of a pass is allowed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    bits: Literal[8, 4, 2] = 8
    epochs: Annotated[float, Field(ge=0, le=1000)] = 1.0
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.01


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Needs a layer with weights, and with fewer than 8 bits one between the first and the last."""
    if not anatomy.layers:
        return "it has no linear layer and no convolution"
    if config.bits < 8 and len(anatomy.layers) < 3:
        return "there is no layer between the first and the last, which keep 8 bits"
    return ""


def compress(model: "nn.Module", config: Config, bench: Bench) -> "nn.Module":
    """A rounded copy of `model`, fine-tuned on the training rows."""
    import torch

    rounded = _rounded(model, config, bench)
    inputs, _ = training.tensors(bench.data.training())
    size = bench.train.batch_size
    rounded.train()
    with torch.no_grad():  # ranges of the inputs, before the first step
        for start in range(0, min(CALIBRATION_BATCHES * size, len(inputs[0])), size):
            rounded(*(tensor[start : start + size] for tensor in inputs))
    training.fit(rounded, bench, epochs=config.epochs, learning_rate=config.learning_rate)
    return rounded


def rebuild(model: "nn.Module", config: Config, shapes: Shapes, bench: Bench) -> "nn.Module":
    """The same rounded layers, for weights of any shape that `model` has."""
    del shapes
    return _rounded(model, config, bench)


def _rounded(model: "nn.Module", config: Config, bench: Bench) -> "nn.Module":
    import torch

    from compressors import rounded_layers

    example = tuple(
        torch.zeros((2, *tensor.shape), dtype=getattr(torch, tensor.dtype))
        for tensor in bench.spec.inputs
    )
    copy = rounded_layers.without_batch_norms(model, example)
    found = rounded_layers.layers(copy)
    for number, (_, layer) in enumerate(found):
        bits = config.bits if 0 < number < len(found) - 1 else 8
        steps = rounded_layers.LearnedSteps(bits, layer.weight)
        rounded_layers.make_rounded(layer, steps, rounded_layers.Range())
    return copy
