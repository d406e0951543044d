"""Linear layers as products of two thin ones, by truncated singular values, then fine-tuned.

W ≈ (U_r Σ_r^½)(Σ_r^½ V_rᵀ) is the best rank-r approximation in the Frobenius norm. Source:
C. Eckart and G. Young, "The approximation of one matrix by another of lower rank" (1936).
"""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from compressors import training
from compressors.anatomy import Anatomy
from compressors.bench import Bench
from compressors.techniques import Shapes
from variants.errors import Invalid

if TYPE_CHECKING:
    from torch import Tensor, nn

FAMILY: Literal["tensorisation"] = "tensorisation"
GUIDE = "For wide linear layers, such as those of transformers or old convolutional networks."
HARDWARE = "any"
KNOBS: dict[str, tuple[Any, ...]] = {"max_rank_ratio": (0.06, 0.125, 0.25, 0.5)}
WORKS_ON: Literal["torch"] = "torch"
REQUIRES: tuple[str, ...] = ("torch",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Which rank, and how long the factors are trained.

    `energy`: smallest rank whose squared singular values hold this share of the sum, from 0 to 1.
    `max_rank_ratio`: rank at most this share of the full rank, from 0 to 1.
    `min_features`: layers with fewer inputs or outputs stay whole.
    `epochs`, `learning_rate`: fine-tuning; a fraction of a pass is allowed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    energy: Annotated[float, Field(gt=0, le=1)] = 0.9
    max_rank_ratio: Annotated[float, Field(gt=0, le=1)] = 0.25
    min_features: Annotated[int, Field(ge=2)] = 32
    epochs: Annotated[float, Field(ge=0, le=1000)] = 0.5
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.02


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Needs a linear layer that is wide enough."""
    widest = max((min(layer.inputs, layer.outputs) for layer in anatomy.linear), default=0)
    if widest < config.min_features:
        return (
            f"no linear layer has {config.min_features} inputs and outputs (min_features); "
            f"the widest has {widest}"
        )
    return ""


def compress(model: "nn.Module", config: Config, bench: Bench) -> "nn.Module":
    """A copy of `model` with every large enough linear layer in two factors, fine-tuned.

    Raises `Invalid` where no layer becomes smaller.
    """
    smaller = _factorised(model, config)
    training.fit(smaller, bench, epochs=config.epochs, learning_rate=config.learning_rate)
    return smaller


def rebuild(model: "nn.Module", config: Config, shapes: Shapes, bench: Bench) -> "nn.Module":
    """The factors again, from the parent's weights."""
    del shapes, bench
    return _factorised(model, config)


def _factorised(model: "nn.Module", config: Config) -> "nn.Module":
    from torch import nn

    smaller = copy.deepcopy(model)
    changed = False
    for name, layer in list(smaller.named_modules()):
        if not isinstance(layer, nn.Linear) or not name:
            continue
        if (factors := factorise(layer, config)) is not None:
            owner, _, attribute = name.rpartition(".")
            setattr(smaller.get_submodule(owner), attribute, factors)
            changed = True
    if not changed:
        raise Invalid("no linear layer becomes smaller at this rank")
    return smaller


def factorise(layer: "nn.Linear", config: Config) -> "nn.Sequential | None":
    """Two thin layers for `layer`, or None where they would not hold fewer weights."""
    import torch
    from torch import nn

    full = min(layer.in_features, layer.out_features)
    if full < config.min_features:
        return None
    with torch.no_grad():
        left, values = _left_singular(layer.weight)
        rank = min(rank_for(values, config.energy), max(1, int(full * config.max_rank_ratio)))
        if rank * (layer.in_features + layer.out_features) >= layer.weight.numel():
            return None
        first = nn.Linear(layer.in_features, rank, bias=False)
        second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
        root = values[:rank].sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        first.weight.copy_((left[:, :rank].T @ layer.weight) / root[:, None])
        second.weight.copy_(left[:, :rank] * root)
        if layer.bias is not None:
            second.bias.copy_(layer.bias)
    return nn.Sequential(first, second)


def _left_singular(weight: "Tensor") -> "tuple[Tensor, Tensor]":
    """Left singular vectors `[out, k]` and singular values `[k]`, falling.

    From the eigenvectors of W Wᵀ, several times faster than a full decomposition; what squaring
    loses lies in the smallest values, which are cut off anyway.
    """
    import torch

    squares, vectors = torch.linalg.eigh(weight @ weight.T)
    kept = min(weight.shape)
    return vectors.flip(1)[:, :kept], squares.flip(0)[:kept].clamp_min(0).sqrt()


def rank_for(values: "Tensor", energy: float) -> int:
    """The smallest r with Σ_{i≤r} σᵢ² ≥ energy × Σ σᵢ²; `values` `[k]`, falling."""
    import torch

    shares = torch.cumsum(values.double() ** 2, dim=0)
    return min(len(values), int((shares < energy * shares[-1]).sum()) + 1)
