"""Structured pruning: the least important channels, neurons and attention heads are removed.

The result is a smaller dense network, so every runtime is faster with it. Importance is summed over
all weights that leave together; which ones those are follows from the dependency graph. Sources:
G. Fang et al., "DepGraph: towards any structural pruning" (2023); P. Molchanov et al., "Importance
estimation for neural network pruning" (2019) for `taylor`; P. Michel et al., "Are sixteen heads
really better than one?" (2019) for heads.
"""

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from compressors import resize, training
from compressors.anatomy import Anatomy
from compressors.bench import Bench
from compressors.export import quiet
from compressors.gauge import example
from compressors.techniques import Shapes
from variants.errors import Invalid
from variants.measure import Progress

if TYPE_CHECKING:
    from torch import nn

FAMILY: Literal["pruning"] = "pruning"
GUIDE = (
    "Faster on every runtime, because what is left is a smaller dense network; fine-tune after it."
)
HARDWARE = "any"
KNOBS: dict[str, tuple[Any, ...]] = {"ratio": (0.25, 0.375, 0.5, 0.625, 0.75)}
WORKS_ON: Literal["torch"] = "torch"
REQUIRES: tuple[str, ...] = ("torch", "torch_pruning")

GRADIENT_BATCHES = 16
GRADIENT_ROWS = 32
"""Training rows in each batch whose gradient `taylor` looks at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How much is removed, by which measure, and how long the rest is trained.

    `ratio`: share of channels and neurons removed, from 0 to 1, the output layer excepted.
    `head_ratio`: share of attention heads removed in every attention, from 0 to 1.
    `importance`: `l1` or `l2` norm of the weights, or `taylor`: weight × gradient on training rows.
    `scope`: `uniform` takes the ratio from every layer, `global` from all channels together.
    `widths`: `inner` keeps widths that several layers write to, such as a residual stream.
    `round_to`: widths stay multiples of this, because vector units work on such blocks.
    `iterations`: prune and fine-tune this many times, each time a part.
    `epochs`, `learning_rate`: all fine-tuning together; a fraction of a pass is allowed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    ratio: Annotated[float, Field(ge=0, lt=1)] = 0.5
    head_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    importance: Literal["l1", "l2", "taylor"] = "l2"
    scope: Literal["uniform", "global"] = "uniform"
    widths: Literal["all", "inner"] = "all"
    round_to: Annotated[int, Field(ge=1)] = 16
    iterations: Annotated[int, Field(ge=1, le=100)] = 1
    epochs: Annotated[float, Field(ge=0, le=1000)] = 0.5
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.02


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Needs a layer before the one that makes the output, and attention where heads are to go."""
    if config.ratio == config.head_ratio == 0:
        return "both ratio and head_ratio are 0, so nothing would be removed"
    if len(anatomy.layers) < 2:
        return "there is no layer to prune before the one that makes the output"
    if config.head_ratio > 0 and anatomy.attention_layers == 0:
        return "it has no attention (layers 'query', 'key' and 'value') to take heads from"
    return ""


def compress(model: "nn.Module", config: Config, bench: Bench) -> "nn.Module":
    """A narrower copy of `model`, fine-tuned on the training rows.

    Raises `Invalid` where the outputs would change their shape.
    """
    smaller = copy.deepcopy(model).eval()
    pruner = Pruner(smaller, config, bench)
    done = 0.0
    for share in shares(config.iterations):
        pruner.step()
        training.fit(
            smaller,
            replace(bench, progress=_part(bench, done, share)),
            epochs=config.epochs * share,
            learning_rate=config.learning_rate,
        )
        done += share
    return smaller


def shares(turns: int) -> list[float]:
    """What each turn gets of the training: the last one half, the ones before it the rest."""
    return [0.5 / (turns - 1)] * (turns - 1) + [0.5] if turns > 1 else [1.0]


def rebuild(model: "nn.Module", config: Config, shapes: Shapes, bench: Bench) -> "nn.Module":
    """A module of the stored widths and heads."""
    del config, bench
    return resize.resized(model, shapes)


def narrow(model: "nn.Module", ratio: float, round_to: int, bench: Bench) -> "nn.Module":
    """A copy of `model` without `ratio` of each layer's channels; its outputs keep their shape.

    Raises `Invalid` where the outputs cannot be kept.
    """
    smaller = copy.deepcopy(model).eval()
    Pruner(smaller, Config(ratio=ratio, round_to=round_to), bench).step()
    return smaller


class Pruner:
    """Takes a model apart in place, `config.iterations` steps to the wanted ratios."""

    def __init__(self, model: "nn.Module", config: Config, bench: Bench) -> None:
        import torch_pruning
        from torch import nn

        from compressors.tensor_train_layer import TensorTrainLinear

        layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
        if not layers:
            raise Invalid("the model has no linear or convolutional layer to prune")
        if any(isinstance(module, TensorTrainLinear) for module in model.modules()):
            raise Invalid("a tensor train has no channels to remove; prune before 'tensor_train'")
        self._model = model
        self._config = config
        self._bench = bench
        self._example = example(bench)
        self._attentions = list(resize.attentions(model))
        self._heads = [resize.heads(attention) for attention in self._attentions]
        self._turn = 0
        kept: list[nn.Module] = [layers[-1]]
        for attention in self._attentions:
            kept += [attention.query, attention.key, attention.value]
        if config.widths == "inner":
            kept += self._shared_writers()
        self._importance = (
            torch_pruning.importance.GroupTaylorImportance()
            if config.importance == "taylor"
            else torch_pruning.importance.GroupMagnitudeImportance(p=int(config.importance[1]))
        )
        with quiet():
            self._pruner = torch_pruning.pruner.BasePruner(
                model,
                self._example,
                importance=self._importance,
                global_pruning=config.scope == "global",
                pruning_ratio=config.ratio,
                iterative_steps=config.iterations,
                ignored_layers=kept,
                round_to=config.round_to,
            )

    def step(self) -> None:
        """Remove the next part. Raises `Invalid` where the outputs changed their shape."""
        import torch

        self._turn += 1
        if self._config.importance == "taylor":
            _gradients(self._model, self._bench)
        with quiet():
            self._remove_heads(self._turn / self._config.iterations)
            self._pruner.step()
        self._model.zero_grad()
        with torch.inference_mode():
            found = tuple(self._model(*self._example).shape[1:])
        if found != self._bench.spec.outputs[0].shape:
            raise Invalid(
                f"pruning changed the output to {list(found)}; the last layer in the module's "
                "order must be the one that makes the output"
            )

    def _remove_heads(self, share: float) -> None:
        """The least important heads of each attention, up to this share of the wanted ratio."""
        import torch
        import torch_pruning

        take = torch_pruning.prune_linear_out_channels
        for attention, before in zip(self._attentions, self._heads, strict=True):
            left = max(1, round(before * (1 - self._config.head_ratio * share)))
            heads = resize.heads(attention)
            if (excess := heads - left) <= 0:
                continue
            graph = self._pruner.DG
            width = attention.query.out_features
            whole = graph.get_pruning_group(attention.query, take, list(range(width)))
            of_head = self._importance(whole).view(heads, -1).mean(1)
            dropped = of_head.topk(excess, largest=False).indices
            rows = torch.arange(width).view(heads, -1)[dropped].flatten()
            graph.get_pruning_group(attention.query, take, sorted(rows.tolist())).prune()
            resize.count_heads(attention)

    def _shared_writers(self) -> "list[nn.Module]":
        """The layers whose outputs are added to those of others."""
        import torch_pruning
        from torch import nn

        shared: list[nn.Module] = []
        with quiet():
            graph = torch_pruning.DependencyGraph().build_dependency(self._model, self._example)
            for group in graph.get_all_groups():
                writers = {
                    item.dep.target.module
                    for item in group
                    if graph.is_out_channel_pruning_fn(item.dep.handler)
                    and isinstance(item.dep.target.module, nn.Linear | nn.Conv1d | nn.Conv2d)
                    and getattr(item.dep.target.module, "groups", 1) == 1
                }
                if len(writers) > 1:
                    shared += writers
        return shared


def _gradients(model: "nn.Module", bench: Bench) -> None:
    """Leave in each weight's gradient the root mean square of its batches' gradients.

    So weight × gradient, squared, is Molchanov's importance (2019, equation 8), averaged over
    batches of training rows. The model stays in eval mode.
    """
    import torch
    from torch.nn import functional

    inputs, labels = training.tensors(bench.data.training())
    squares = {p: torch.zeros_like(p) for p in model.parameters()}
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(bench.seed))
    batches = torch.split(order, GRADIENT_ROWS)[:GRADIENT_BATCHES]
    for rows in batches:
        model.zero_grad()
        functional.cross_entropy(model(*(x[rows] for x in inputs)), labels[rows]).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for parameter, total in squares.items():
            if parameter.grad is not None:
                total.add_(parameter.grad**2)
    for parameter, total in squares.items():
        parameter.grad = total.div(len(batches)).sqrt()


def _part(bench: Bench, done: float, share: float) -> Progress:
    """The bench's progress as that of one of several trainings."""
    return lambda of_share: bench.progress(done + share * of_share)
