"""Convolutions rewritten as depthwise-separable ones: each channel for itself, then all mixed.

For each input channel the kernels of all outputs, `[out, k × k]`, are replaced by their closest
matrix of rank `multiplier`: its right vectors become the depthwise kernels, its left ones the
pointwise weights. Then it is trained towards its parent's answers. Sources: F. Chollet, "Xception"
(2017); A. Howard et al., "MobileNets" (2017); J. Guo et al., "Network decoupling: from regular to
depthwise separable convolutions" (2018) for the initialisation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from compressors import anatomy as anatomies
from compressors import factors
from compressors.anatomy import Anatomy
from compressors.bench import Bench
from compressors.retrain import retrain
from compressors.techniques import Shapes

if TYPE_CHECKING:
    from torch import nn

FAMILY: Literal["architecture"] = "architecture"
GUIDE = "A trained convolutional network as one of MobileNet's kind; needs some passes of training."
HARDWARE = "any"
WORKS_ON: Literal["torch"] = "torch"
REQUIRES: tuple[str, ...] = ("torch",)
KNOBS: dict[str, tuple[Any, ...]] = {"multiplier": (1, 2)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How the convolutions are rewritten and taught.

    `multiplier`: depthwise kernels for each input channel.
    `min_channels`: convolutions with fewer inputs or outputs stay whole.
    `soft_share`: weight of the parent's answers against the labels, from 0 to 1.
    `temperature`: softens both answers; 1 leaves them as they are.
    `epochs`, `learning_rate`: training; a fraction of a pass is allowed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    multiplier: Annotated[int, Field(ge=1, le=16)] = 1
    min_channels: Annotated[int, Field(ge=1)] = 16
    soft_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    temperature: Annotated[float, Field(ge=1, le=100)] = 2.0
    epochs: Annotated[float, Field(ge=0, le=1000)] = 2.0
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.02


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Needs a convolution that is wide enough."""
    return anatomies.no_convolution(anatomy, config.min_channels)


def compress(model: "nn.Module", config: Config, bench: Bench) -> "nn.Module":
    """A copy of `model` with separable convolutions, taught by `model`.

    Raises `Invalid` where none becomes smaller.
    """
    kind = method(config)
    wanted = {name: (layer.in_channels * config.multiplier,) for name, layer in kind.layers(model)}
    separable = factors.replaced(model, kind, wanted)
    retrain(
        separable,
        model,
        bench,
        soft_share=config.soft_share,
        temperature=config.temperature,
        epochs=config.epochs,
        learning_rate=config.learning_rate,
    )
    return separable


def rebuild(model: "nn.Module", config: Config, shapes: Shapes, bench: Bench) -> "nn.Module":
    """Separable convolutions of the stored sizes."""
    del bench
    return factors.rebuilt(model, method(config), shapes)


def method(config: Config) -> factors.Method:
    """A depthwise and a pointwise convolution for one."""
    return factors.Method(
        suits=lambda layer: factors.spatial_conv(layer, config.min_channels),
        at=_at,
        form=_form,
        fill=_fill,
        stored=_stored,
        unfoldings=lambda _: (),
    )


def _at(layer: Any, share: float) -> factors.Ranks:
    places = layer.kernel_size[0] * layer.kernel_size[1]
    return (layer.in_channels * max(1, int(share * places)),)


def _form(layer: Any, of: factors.Ranks) -> "nn.Module":
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(
            layer.in_channels,
            of[0],
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.in_channels,
            bias=False,
        ),
        nn.Conv2d(of[0], layer.out_channels, 1, bias=layer.bias is not None),
    )


def _fill(form: Any, layer: Any) -> None:
    import torch

    depthwise, pointwise = form
    multiplier = depthwise.out_channels // layer.in_channels
    with torch.no_grad():
        of_input = layer.weight.movedim(1, 0).flatten(2)  # [in, out, k × k]
        left, values, right = torch.linalg.svd(of_input, full_matrices=False)
        root = values[:, :multiplier].sqrt()
        kernels = root[:, :, None] * right[:, :multiplier]
        mixing = left[:, :, :multiplier] * root[:, None]  # [in, out, multiplier]
        depthwise.weight.copy_(kernels.reshape(depthwise.weight.shape))
        pointwise.weight.copy_(mixing.movedim(1, 0).reshape(pointwise.weight.shape))
        if layer.bias is not None:
            pointwise.bias.copy_(layer.bias)


def _stored(shapes: Mapping[str, tuple[int, ...]]) -> factors.Ranks:
    return (shapes["0.weight"][0],)
