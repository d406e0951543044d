"""Linear layers and convolutions as trains of small tensors.

A linear weight becomes cores over factors of its inputs and outputs; a convolution becomes four in
a row: to fewer channels, down, across, and out. Cores by successive singular values. Sources:
I. Oseledets, "Tensor-train decomposition" (2011), algorithm 1; A. Novikov et al., "Tensorizing
neural networks" (2015); T. Garipov et al., "Ultimate tensorization" (2016) for convolutions.
"""

import math
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
GUIDE = "The fewest weights for a wide linear layer; size rather than speed, and fine-tune after."
HARDWARE = "any"
WORKS_ON: Literal["torch"] = "torch"
REQUIRES: tuple[str, ...] = ("torch", "tensorly", "scipy")
KNOBS: dict[str, tuple[Any, ...]] = {"size_ratio": (0.06, 0.125, 0.25, 0.5)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Which layers, which ranks, and how long the cores are trained.

    `layers`: `linear`, `conv` or `all`.
    `cores`: how many tensors a linear layer's weight becomes.
    `rank_by`: `energy`, `ratio`, `vbmf` (what stands out of noise), or `sensitivity`: as many
    weights as `ratio` leaves, where the model's answers need them most.
    `energy`: share of the squared singular values that `energy` keeps, from 0 to 1.
    `size_ratio`: share of each layer's weights that `ratio` leaves, from 0 to 1.
    `min_features`: layers with fewer inputs or outputs stay whole.
    `epochs`, `learning_rate`: fine-tuning; a fraction of a pass is allowed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    layers: Literal["linear", "conv", "all"] = "all"
    cores: Annotated[int, Field(ge=2, le=6)] = 2
    rank_by: Literal["energy", "ratio", "vbmf", "sensitivity"] = "ratio"
    energy: Annotated[float, Field(gt=0, le=1)] = 0.9
    size_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    min_features: Annotated[int, Field(ge=2)] = 32
    epochs: Annotated[float, Field(ge=0, le=1000)] = 0.5
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.02


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Needs a layer of the wanted kind that is wide enough."""
    kinds = {
        "linear": anatomy.linear,
        "conv": anatomy.convolutions,
        "all": (*anatomy.linear, *anatomy.convolutions),
    }
    widest = max((min(x.inputs, x.outputs) for x in kinds[config.layers]), default=0)
    if config.layers == "conv" and (reason := anatomies.no_convolution(anatomy, 2)):
        return reason
    if widest < config.min_features:
        return (
            f"no layer has {config.min_features} inputs and outputs (min_features); "
            f"the widest has {widest}"
        )
    return ""


def compress(model: "nn.Module", config: Config, bench: Bench) -> "nn.Module":
    """A copy of `model` with its wide layers as trains, fine-tuned.

    Raises `Invalid` where no layer becomes smaller.
    """
    kind = method(config)
    wanted = factors.Wanted(rank_by=config.rank_by, energy=config.energy, share=config.size_ratio)
    smaller = factors.replaced(
        model, kind, factors.chosen(model, kind, wanted, bench, "tensor_train")
    )
    training.fit(smaller, bench, epochs=config.epochs, learning_rate=config.learning_rate)
    return smaller


def rebuild(model: "nn.Module", config: Config, shapes: Shapes, bench: Bench) -> "nn.Module":
    """Trains of the stored ranks."""
    del bench
    return factors.rebuilt(model, method(config), shapes)


def method(config: Config) -> factors.Method:
    """A train for each layer."""
    train = _Train(config)
    return factors.Method(
        suits=train.suits,
        at=train.at,
        form=train.form,
        fill=train.fill,
        stored=_stored,
        unfoldings=train.unfoldings,
    )


class _Train:
    """The weight of a layer as a tensor `[d₁, …, d_k]` and its train."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def suits(self, layer: Any) -> bool:
        from torch import nn

        least = self._config.min_features
        if isinstance(layer, nn.Linear):
            wide = min(layer.in_features, layer.out_features) >= least
            return self._config.layers != "conv" and wide
        return self._config.layers != "linear" and factors.spatial_conv(layer, least)

    def modes(self, layer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Factors of the outputs and of the inputs of a linear layer, one of each a core."""
        cores = self._config.cores
        return balanced(layer.out_features, cores), balanced(layer.in_features, cores)[::-1]

    def tensor(self, layer: Any) -> "Tensor":
        """The weight with the axes of the train: `[m₁n₁, m₂n₂, …]`, or `[i, y, x, o]`."""
        from torch import nn

        weight: Tensor = layer.weight.detach()
        if not isinstance(layer, nn.Linear):
            return weight.permute(1, 2, 3, 0)
        outputs, inputs = self.modes(layer)
        cores = range(len(outputs))
        axes = [axis for core in cores for axis in (core, core + len(outputs))]
        sizes = [m * n for m, n in zip(outputs, inputs, strict=True)]
        return weight.view(*outputs, *inputs).permute(axes).reshape(sizes)

    def unfoldings(self, layer: Any) -> "Sequence[Tensor]":
        """The tensor cut in two at each place between its axes."""
        tensor = self.tensor(layer)
        cuts = range(1, tensor.ndim)
        return [tensor.reshape(math.prod(tensor.shape[:cut]), -1) for cut in cuts]

    def at(self, layer: Any, share: float) -> factors.Ranks:
        """The same share of each of the greatest possible ranks."""
        sizes = tuple(self.tensor(layer).shape)
        cuts = range(1, len(sizes))
        most = [min(math.prod(sizes[:cut]), math.prod(sizes[cut:])) for cut in cuts]

        def of(part: float) -> tuple[int, ...]:
            return tuple(max(1, int(part * rank)) for rank in most)

        def weights(part: float) -> int:
            ends = (1, *of(part), 1)
            return sum(ends[k] * size * ends[k + 1] for k, size in enumerate(sizes))

        return of(factors.by_size(weights, share * math.prod(sizes)))

    def form(self, layer: Any, of: factors.Ranks) -> "nn.Module":
        from torch import nn

        from compressors.tensor_train_layer import TensorTrainLinear

        of = possible(of, tuple(self.tensor(layer).shape))
        if isinstance(layer, nn.Linear):
            return TensorTrainLinear(*self.modes(layer), of, bias=layer.bias is not None)
        return nn.Sequential(
            nn.Conv2d(layer.in_channels, of[0], 1, bias=False),
            factors.along(layer, 0, of[0], of[1]),
            factors.along(layer, 1, of[1], of[2]),
            nn.Conv2d(of[2], layer.out_channels, 1, bias=layer.bias is not None),
        )

    def fill(self, form: Any, layer: Any) -> None:
        import torch
        from tensorly.decomposition import tensor_train
        from torch import nn

        linear = isinstance(layer, nn.Linear)
        of = _stored({name: tuple(value.shape) for name, value in form.state_dict().items()})
        found = tensor_train(self.tensor(layer).numpy(), rank=[1, *of, 1])
        cores = [torch.from_numpy(core.copy()) for core in found]
        with torch.no_grad():
            if linear:
                for to, core in zip(form.cores, cores, strict=True):
                    to.copy_(core.view(to.shape))
            else:
                first, down, across, last = cores
                form[0].weight.copy_(first[0].T[:, :, None, None])
                form[1].weight.copy_(down.permute(2, 0, 1)[..., None])
                form[2].weight.copy_(across.permute(2, 0, 1)[:, :, None])
                form[3].weight.copy_(last[..., 0].T[:, :, None, None])
            if layer.bias is not None:
                (form if linear else form[3]).bias.copy_(layer.bias)


def balanced(features: int, parts: int) -> tuple[int, ...]:
    """`features` as a product of `parts` numbers that are as alike as its divisors allow."""
    if parts == 1:
        return (features,)
    goal = features ** (1 / parts)
    divisors = [number for number in range(1, features + 1) if features % number == 0]
    first = min(divisors, key=lambda number: abs(math.log(number / goal)))
    return (first, *balanced(features // first, parts - 1))


def possible(of: factors.Ranks, sizes: tuple[int, ...]) -> factors.Ranks:
    """The ranks, none of them greater than its neighbours allow: r_k ≤ r_{k−1} d_k and back."""
    ranks = [1, *of, 1]
    for k in range(1, len(sizes)):
        ranks[k] = min(ranks[k], ranks[k - 1] * sizes[k - 1])
    for k in range(len(sizes) - 1, 0, -1):
        ranks[k] = min(ranks[k], sizes[k] * ranks[k + 1])
    return tuple(ranks[1:-1])


def _stored(shapes: Mapping[str, tuple[int, ...]]) -> factors.Ranks:
    if "0.weight" in shapes:
        return tuple(shapes[f"{part}.weight"][0] for part in range(3))
    count = sum(name.startswith("cores.") for name in shapes)
    return tuple(shapes[f"cores.{core}"][-1] for core in range(count - 1))
