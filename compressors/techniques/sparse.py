"""Unstructured pruning: the weights of least magnitude become zero, more of them as training goes.

The share of zeros rises from nothing along s(t) = s × (1 − (1 − t)³) and then stays, while the
weights that are left go on learning. Sources: M. Zhu and S. Gupta, "To prune, or not to prune"
(2017), equation 1; S. Han et al., "Learning both weights and connections" (2015). N:M patterns:
A. Mishra et al., "Accelerating sparse deep neural networks" (2021).

The torch module keeps its form; the technique `packed` then stores the zeros in one bit each.
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
    from torch import Tensor, nn

FAMILY: Literal["pruning"] = "pruning"
GUIDE = "Smaller at rest with 'packed' after it, and not faster: no runtime here skips zeros."
HARDWARE = "any"
WORKS_ON: Literal["torch"] = "torch"
REQUIRES: tuple[str, ...] = ("torch",)
KNOBS: dict[str, tuple[Any, ...]] = {"sparsity": (0.5, 0.75, 0.9)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How many weights become zero, where, and along which schedule.

    `sparsity`: share of zeros in the weights of linear and convolutional layers, from 0 to 1.
    `pattern`: instead of `sparsity`, zeros in every group of inputs: `2:4` leaves two of four.
    `scope`: `layer` takes the share from every layer, `global` from all weights together.
    `until`: share of the training after which no more weights become zero, from 0 to 1.
    `updates`: how many times the zeros are chosen; 1 chooses them all at the start.
    `min_elements`: smaller layers stay dense.
    `epochs`, `learning_rate`: fine-tuning; without it the zeros are chosen once.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    sparsity: Annotated[float, Field(gt=0, lt=1)] = 0.9
    pattern: Literal["1:4", "2:4", "4:8"] | None = None
    scope: Literal["layer", "global"] = "global"
    until: Annotated[float, Field(gt=0, le=1)] = 0.6
    updates: Annotated[int, Field(ge=1, le=1000)] = 10
    min_elements: Annotated[int, Field(ge=1)] = 256
    epochs: Annotated[float, Field(ge=0, le=1000)] = 1.0
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.02


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Needs a layer that is large enough."""
    largest = max((layer.elements for layer in anatomy.layers), default=0)
    if largest < config.min_elements:
        return (
            f"no linear or convolutional layer has {config.min_elements} weights (min_elements); "
            f"the largest has {largest}"
        )
    return ""


def compress(model: "nn.Module", config: Config, bench: Bench) -> "nn.Module":
    """A copy of `model` with zeros among its weights, fine-tuned around them."""
    sparser = copy.deepcopy(model)
    zeros = Zeros(sparser, config)
    if config.updates == 1:
        zeros.choose(1.0)
    training.fit(
        sparser,
        bench,
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        after_step=zeros.after_step,
    )
    zeros.choose(1.0)
    return sparser


def rebuild(model: "nn.Module", config: Config, shapes: Shapes, bench: Bench) -> "nn.Module":
    """The module as it is: zeros lie in the weights alone."""
    del config, shapes, bench
    return copy.deepcopy(model)


class Zeros:
    """Which weights of a module are zero, chosen anew until the wanted share is reached."""

    def __init__(self, model: "nn.Module", config: Config) -> None:
        from torch import nn

        self._config = config
        self._layers = [
            layer
            for layer in model.modules()
            if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
            and layer.weight.numel() >= config.min_elements
        ]
        self._kept: list[Tensor] = []
        self._chosen = 0

    def after_step(self, share: float) -> None:
        """Choose anew where the schedule says so, and put the zeros back."""
        due = min(self._config.updates, int(share / self._config.until * self._config.updates))
        if due > self._chosen and self._config.updates > 1:
            self.choose(rising(due / self._config.updates))
            self._chosen = due
        self._apply()

    def choose(self, share: float) -> None:
        """Let this share of the wanted zeros be the weights of least magnitude."""
        weights = [layer.weight.detach() for layer in self._layers]
        if self._config.pattern is not None:
            keep, of = (int(number) for number in self._config.pattern.split(":"))
            self._kept = [_pattern(w, of - round(share * (of - keep)), of) for w in weights]
        elif self._config.scope == "layer":
            self._kept = [largest(w, share * self._config.sparsity) for w in weights]
        else:
            self._kept = _split(largest(_joined(weights), share * self._config.sparsity), weights)
        self._apply()

    def _apply(self) -> None:
        for layer, kept in zip(self._layers, self._kept, strict=False):
            layer.weight.data.mul_(kept.to(layer.weight.device))


def rising(t: float) -> float:
    """Share of the wanted zeros at the share `t` of the schedule, both from 0 to 1."""
    return 1 - (1 - t) ** 3


def largest(values: "Tensor", sparsity: float) -> "Tensor":
    """1 for the values of greatest magnitude and 0 for this share of them, in the same shape."""
    import torch

    count = round(values.numel() * sparsity)
    kept = torch.ones_like(values).flatten()
    kept[values.abs().flatten().topk(count, largest=False).indices] = 0
    return kept.view(values.shape)


def _pattern(weight: "Tensor", keep: int, of: int) -> "Tensor":
    """1 for the `keep` greatest of every `of` inputs of one output, where the inputs divide so.

    `weight` is `[outputs, inputs, …]`; where `of` does not divide the inputs it stays dense.
    """
    import torch

    rows = weight.movedim(1, -1)
    if rows.shape[-1] % of:
        return torch.ones_like(weight)
    order = rows.abs().reshape(-1, of).argsort(1, descending=True).argsort(1)
    return (order < keep).to(rows.dtype).view(rows.shape).movedim(-1, 1)


def _joined(tensors: "list[Tensor]") -> "Tensor":
    import torch

    return torch.cat([tensor.flatten() for tensor in tensors])


def _split(joined: "Tensor", like: "list[Tensor]") -> "list[Tensor]":
    import torch

    parts = torch.split(joined, [tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]
