"""Convolutions as four: to few channels, down, across, and out, every channel for itself between.

W[o, i, y, x] ≈ Σ_r O[o, r] I[i, r] Y[y, r] X[x, r], by alternating least squares. Source:
V. Lebedev et al., "Speeding-up convolutional neural networks using fine-tuned CP-decomposition"
(2015), section 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from compressors import anatomy as anatomies
from compressors import factors, training
from compressors.anatomy import Anatomy
from compressors.bench import Bench
from compressors.techniques import Shapes

if TYPE_CHECKING:
    from torch import nn

FAMILY: Literal["tensorisation"] = "tensorisation"
GUIDE = "The smallest convolutions by weights, the hardest to fine-tune; small learning rates only."
HARDWARE = "any"
WORKS_ON: Literal["torch"] = "torch"
REQUIRES: tuple[str, ...] = ("torch", "tensorly")
KNOBS: dict[str, tuple[Any, ...]] = {"size_ratio": (0.125, 0.25, 0.5)}
ITERATIONS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Which rank, and how long the parts are trained.

    `rank_by`: `ratio`, or `sensitivity`: as many weights as `ratio` leaves, where the model's
    answers need them most; `energy`: the smallest part of a layer that comes near enough.
    `energy`: share of the squared weights that `energy` explains, from 0 to 1.
    `size_ratio`: share of each layer's weights that `ratio` leaves, from 0 to 1.
    `min_channels`: convolutions with fewer inputs or outputs stay whole.
    `epochs`, `learning_rate`: fine-tuning; a fraction of a pass is allowed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    rank_by: Literal["energy", "ratio", "sensitivity"] = "ratio"
    energy: Annotated[float, Field(gt=0, le=1)] = 0.8
    size_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    min_channels: Annotated[int, Field(ge=2)] = 16
    epochs: Annotated[float, Field(ge=0, le=1000)] = 0.5
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.005


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Needs a convolution that is wide enough."""
    return anatomies.no_convolution(anatomy, config.min_channels)


def compress(model: "nn.Module", config: Config, bench: Bench) -> "nn.Module":
    """A copy of `model` with its convolutions in four parts, fine-tuned.

    Raises `Invalid` where none becomes smaller.
    """
    kind = method(config)
    if config.rank_by == "energy":
        chosen = {name: _near_enough(layer, config.energy) for name, layer in kind.layers(model)}
    else:
        wanted = factors.Wanted(
            rank_by=config.rank_by, energy=config.energy, share=config.size_ratio
        )
        chosen = factors.chosen(model, kind, wanted, bench, "cp")
    smaller = factors.replaced(model, kind, chosen)
    training.fit(smaller, bench, epochs=config.epochs, learning_rate=config.learning_rate)
    return smaller


def rebuild(model: "nn.Module", config: Config, shapes: Shapes, bench: Bench) -> "nn.Module":
    """Parts of the stored rank."""
    del bench
    return factors.rebuilt(model, method(config), shapes)


def method(config: Config) -> factors.Method:
    """Four convolutions for one."""
    return factors.Method(
        suits=lambda layer: factors.spatial_conv(layer, config.min_channels),
        at=_at,
        form=_form,
        fill=_fill,
        stored=_stored,
        unfoldings=lambda _: (),
    )


def _at(layer: Any, share: float) -> factors.Ranks:
    of_rank = layer.in_channels + sum(layer.kernel_size) + layer.out_channels
    return (max(1, int(share * layer.weight.numel() / of_rank)),)


def _near_enough(layer: Any, energy: float) -> factors.Ranks:
    """The first rank of the ladder that explains this share of the squared weights."""
    weight = layer.weight.detach()
    for share in factors.LADDER:
        rank = _at(layer, share)
        down, across, inner, outer = _decomposed(layer, rank[0])
        near = (inner[:, None, None] * down[:, None] * across).flatten(0, 2) @ outer.T
        error = near.view(*weight.shape[1:], -1).movedim(-1, 0) - weight
        if 1 - float((error**2).sum() / (weight**2).sum()) >= energy:
            return rank
    return _at(layer, 1.0)


def _form(layer: Any, of: factors.Ranks) -> "nn.Module":
    from torch import nn

    rank = of[0]
    return nn.Sequential(
        nn.Conv2d(layer.in_channels, rank, 1, bias=False),
        factors.along(layer, 0, rank, rank, groups=rank),
        factors.along(layer, 1, rank, rank, groups=rank),
        nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None),
    )


def _decomposed(layer: Any, rank: int) -> Any:
    """Factors for down `[ky, r]`, across `[kx, r]`, inputs and outputs, of equal sizes."""
    import torch
    from tensorly.decomposition import parafac

    weights, found = parafac(
        layer.weight.detach().numpy(),
        rank=rank,
        n_iter_max=ITERATIONS,
        init="random",
        random_state=0,
        normalize_factors=True,
        tol=1e-6,
    )
    size = torch.from_numpy(weights) ** 0.25
    outer, inner, down, across = (torch.from_numpy(part.copy()) * size for part in found)
    return down, across, inner, outer


def _fill(form: Any, layer: Any) -> None:
    import torch

    first, vertical, horizontal, last = form
    down, across, inner, outer = _decomposed(layer, first.out_channels)
    with torch.no_grad():
        first.weight.copy_(inner.T[:, :, None, None])
        vertical.weight.copy_(down.T[:, None, :, None])
        horizontal.weight.copy_(across.T[:, None, None, :])
        last.weight.copy_(outer[:, :, None, None])
        if layer.bias is not None:
            last.bias.copy_(layer.bias)


def _stored(shapes: Mapping[str, tuple[int, ...]]) -> factors.Ranks:
    return (shapes["0.weight"][0],)
