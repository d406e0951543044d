"""Linear layers as products of two thin ones, by truncated singular values, then fine-tuned.

W ≈ (U_r Σ_r^½)(Σ_r^½ V_rᵀ) is the best rank-r approximation in the Frobenius norm. Source:
C. Eckart and G. Young, "The approximation of one matrix by another of lower rank" (1936).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from compressors import factors, ranks, training
from compressors.anatomy import Anatomy
from compressors.bench import Bench
from compressors.techniques import Shapes

if TYPE_CHECKING:
    from torch import nn

FAMILY: Literal["tensorisation"] = "tensorisation"
GUIDE = "For wide linear layers, such as those of transformers or old convolutional networks."
HARDWARE = "any"
WORKS_ON: Literal["torch"] = "torch"
REQUIRES: tuple[str, ...] = ("torch",)
KNOBS: dict[str, tuple[Any, ...]] = {"max_rank_ratio": (0.06, 0.125, 0.25, 0.5)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Which rank, and how long the factors are trained.

    `rank_by`: `energy`, at most `max_rank_ratio`; `ratio`: that ratio itself; `vbmf`: what stands
    out of noise; `sensitivity`: as many weights as `ratio` leaves, where answers need them most.
    `energy`: smallest rank whose squared singular values hold this share of the sum, from 0 to 1.
    `max_rank_ratio`: rank at most this share of the full rank, from 0 to 1.
    `min_features`: layers with fewer inputs or outputs stay whole.
    `epochs`, `learning_rate`: fine-tuning; a fraction of a pass is allowed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    rank_by: Literal["energy", "ratio", "vbmf", "sensitivity"] = "energy"
    energy: Annotated[float, Field(gt=0, le=1)] = 0.9
    max_rank_ratio: Annotated[float, Field(gt=0, le=1)] = 0.25
    min_features: Annotated[int, Field(ge=2)] = 32
    epochs: Annotated[float, Field(ge=0, le=1000)] = 0.5
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.02

    @property
    def requires(self) -> tuple[str, ...]:
        """Imports beside the technique's own."""
        return ("scipy",) if self.rank_by == "vbmf" else ()


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
    kind = method(config)
    chosen = factors.chosen(
        model,
        kind,
        factors.Wanted(rank_by=config.rank_by, energy=config.energy, share=config.max_rank_ratio),
        bench,
        "low_rank",
    )
    if config.rank_by == "energy":
        limits = {name: kind.at(layer, config.max_rank_ratio) for name, layer in kind.layers(model)}
        chosen = {name: min(of, limits[name]) for name, of in chosen.items()}
    smaller = factors.replaced(model, kind, chosen)
    training.fit(smaller, bench, epochs=config.epochs, learning_rate=config.learning_rate)
    return smaller


def rebuild(model: "nn.Module", config: Config, shapes: Shapes, bench: Bench) -> "nn.Module":
    """Factors of the stored ranks."""
    del bench
    return factors.rebuilt(model, method(config), shapes)


def method(config: Config) -> factors.Method:
    """Two linear layers for one."""
    return factors.Method(
        suits=lambda layer: _suits(layer, config),
        at=_at,
        form=_form,
        fill=_fill,
        stored=_stored,
        unfoldings=lambda layer: [layer.weight.detach()],
    )


def _suits(layer: Any, config: Config) -> bool:
    from torch import nn

    return (
        isinstance(layer, nn.Linear)
        and min(layer.in_features, layer.out_features) >= config.min_features
    )


def _at(layer: Any, share: float) -> factors.Ranks:
    return (max(1, int(min(layer.in_features, layer.out_features) * share)),)


def _form(layer: Any, of: factors.Ranks) -> "nn.Module":
    from torch import nn

    return nn.Sequential(
        nn.Linear(layer.in_features, of[0], bias=False),
        nn.Linear(of[0], layer.out_features, bias=layer.bias is not None),
    )


def _fill(form: Any, layer: Any) -> None:
    import torch

    first, second = form
    left, values = ranks.singular(layer.weight)
    rank = first.out_features
    with torch.no_grad():
        root = values[:rank].sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        first.weight.copy_((left[:, :rank].T @ layer.weight) / root[:, None])
        second.weight.copy_(left[:, :rank] * root)
        if layer.bias is not None:
            second.bias.copy_(layer.bias)


def _stored(shapes: Mapping[str, tuple[int, ...]]) -> factors.Ranks:
    return (shapes["0.weight"][0],)
