"""Weights of one bit (a sign) or of three values, times a scale per output channel, trained so.

What remains of a float32 weight is 1/32 (binary) or 1/20 (ternary: five in a byte). Arithmetic
stays float32, because no runtime here has kernels for such weights: it is size at rest, and nothing
else. Sources: M. Rastegari et al., "XNOR-Net: ImageNet classification using binary convolutional
neural networks" (2016), binary weights only; F. Li, B. Zhang, B. Liu, "Ternary weight networks"
(2016).
"""

import copy
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
GUIDE = (
    "The smallest file there is, never faster; pays on wide networks only, where 4 bits are too "
    "many, and needs training as long as the model's own."
)
HARDWARE = "any"
KNOBS: dict[str, tuple[Any, ...]] = {"kind": ("binary", "ternary")}
WORKS_ON: Literal["torch"] = "torch"
REQUIRES: tuple[str, ...] = ("torch",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How many values a weight has and how long that is trained.

    `kind`: `binary` (1 bit) or `ternary` (1.6 bits). The first and the last layer stay float32.
    `epochs`, `learning_rate`: the training; it starts from the weights of the model.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    kind: Literal["binary", "ternary"] = "ternary"
    epochs: Annotated[float, Field(ge=0, le=1000)] = 3.0
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.02


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Needs a layer between the first and the last."""
    del config
    if len(anatomy.layers) < 3:
        return "there is no layer between the first and the last, which stay float32"
    return ""


def compress(model: "nn.Module", config: Config, bench: Bench) -> "nn.Module":
    """A copy of `model` whose inner layers have two or three values per channel, trained."""
    rounded = _rounded(model, config)
    training.fit(rounded, bench, epochs=config.epochs, learning_rate=config.learning_rate)
    return rounded


def rebuild(model: "nn.Module", config: Config, shapes: Shapes, bench: Bench) -> "nn.Module":
    """The same layers, for weights of any shape that `model` has."""
    del shapes, bench
    return _rounded(model, config)


def _rounded(model: "nn.Module", config: Config) -> "nn.Module":
    from torch import nn

    from compressors import rounded_layers

    form = {"binary": rounded_layers.Signs, "ternary": rounded_layers.Thirds}[config.kind]
    rounded = copy.deepcopy(model)
    for _, layer in rounded_layers.layers(rounded)[1:-1]:
        rounded_layers.make_rounded(layer, form(), nn.Identity())
    return rounded
