"""Convolutions as three: fewer channels in, the kernel between few channels, more channels out.

W[o, i, ·, ·] ≈ Σ_{a,b} O[o, a] I[i, b] K[a, b, ·, ·], by higher-order orthogonal iteration. Source:
Y.-D. Kim et al., "Compression of deep convolutional neural networks for fast and low power mobile
applications" (2016), section 3 (Tucker-2, ranks by VBMF).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from compressors import anatomy as anatomies
from compressors import factors, training
from compressors.anatomy import Anatomy
from compressors.bench import Bench
from compressors.techniques import Shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

FAMILY: Literal["tensorisation"] = "tensorisation"
GUIDE = "For wide convolutions with fine-tuning after it; 'pruned' is mostly faster at equal size."
HARDWARE = "any"
WORKS_ON: Literal["torch"] = "torch"
REQUIRES: tuple[str, ...] = ("torch", "tensorly", "scipy")
KNOBS: dict[str, tuple[Any, ...]] = {"size_ratio": (0.125, 0.25, 0.5)}
ITERATIONS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Which ranks, and how long the parts are trained.

    `rank_by`: `energy`, `ratio`, `vbmf` (what stands out of noise), or `sensitivity`: as many
    weights as `ratio` leaves, where the model's answers need them most.
    `energy`: share of the squared singular values that `energy` keeps, from 0 to 1.
    `size_ratio`: share of each layer's weights that `ratio` leaves, from 0 to 1.
    `min_channels`: convolutions with fewer inputs or outputs stay whole.
    `epochs`, `learning_rate`: fine-tuning; a fraction of a pass is allowed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    rank_by: Literal["energy", "ratio", "vbmf", "sensitivity"] = "ratio"
    energy: Annotated[float, Field(gt=0, le=1)] = 0.9
    size_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    min_channels: Annotated[int, Field(ge=2)] = 16
    epochs: Annotated[float, Field(ge=0, le=1000)] = 0.5
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.02


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Needs a convolution that is wide enough."""
    return anatomies.no_convolution(anatomy, config.min_channels)


def compress(model: "nn.Module", config: Config, bench: Bench) -> "nn.Module":
    """A copy of `model` with its convolutions in three parts, fine-tuned.

    Raises `Invalid` where none becomes smaller.
    """
    kind = method(config)
    wanted = factors.Wanted(rank_by=config.rank_by, energy=config.energy, share=config.size_ratio)
    smaller = factors.replaced(model, kind, factors.chosen(model, kind, wanted, bench, "tucker"))
    training.fit(smaller, bench, epochs=config.epochs, learning_rate=config.learning_rate)
    return smaller


def rebuild(model: "nn.Module", config: Config, shapes: Shapes, bench: Bench) -> "nn.Module":
    """Parts of the stored ranks."""
    del bench
    return factors.rebuilt(model, method(config), shapes)


def method(config: Config) -> factors.Method:
    """Three convolutions for one."""
    return factors.Method(
        suits=lambda layer: factors.spatial_conv(layer, config.min_channels),
        at=_at,
        form=_form,
        fill=_fill,
        stored=_stored,
        unfoldings=_unfoldings,
    )


def _at(layer: Any, share: float) -> factors.Ranks:
    """The same share of the inputs and of the outputs."""

    def of(part: float) -> tuple[int, int]:
        return max(1, int(part * layer.in_channels)), max(1, int(part * layer.out_channels))

    def weights(part: float) -> int:
        few, many = of(part)
        kernel = layer.kernel_size[0] * layer.kernel_size[1]
        return int(few * layer.in_channels + few * many * kernel + many * layer.out_channels)

    return of(factors.by_size(weights, share * layer.weight.numel()))


def _form(layer: Any, of: factors.Ranks) -> "nn.Module":
    from torch import nn

    few, many = of
    return nn.Sequential(
        nn.Conv2d(layer.in_channels, few, 1, bias=False),
        nn.Conv2d(
            few,
            many,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            bias=False,
        ),
        nn.Conv2d(many, layer.out_channels, 1, bias=layer.bias is not None),
    )


def _fill(form: Any, layer: Any) -> None:
    import torch
    from tensorly.decomposition import partial_tucker

    first, middle, last = form
    (core, (outer, inner)), _ = partial_tucker(
        layer.weight.detach().numpy(),
        rank=[middle.out_channels, middle.in_channels],
        modes=[0, 1],
        n_iter_max=ITERATIONS,
        init="svd",
    )
    with torch.no_grad():
        first.weight.copy_(torch.from_numpy(inner.T.copy())[:, :, None, None])
        middle.weight.copy_(torch.from_numpy(core.copy()))
        last.weight.copy_(torch.from_numpy(outer.copy())[:, :, None, None])
        if layer.bias is not None:
            last.bias.copy_(layer.bias)


def _stored(shapes: Mapping[str, tuple[int, ...]]) -> factors.Ranks:
    return shapes["0.weight"][0], shapes["1.weight"][0]


def _unfoldings(layer: Any) -> "Sequence[Tensor]":
    """Inputs and outputs against the rest, in the order of the ranks."""
    weight = layer.weight.detach()
    return weight.movedim(1, 0).flatten(1), weight.flatten(1)
