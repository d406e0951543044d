"""Layers in factors of low rank: which ranks, where they go, and the same form again from shapes.

A `Method` knows one kind of factorisation; this file chooses ranks for every layer that it suits:
`energy`, `ratio`, `vbmf` (see `ranks.py`) or `sensitivity`, which spends the same number of weights
as `ratio` where the model's answers need them most.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from compressors import ranks
from compressors.bench import Bench
from compressors.gauge import Gauge
from variants.errors import Invalid

if TYPE_CHECKING:
    from torch import Tensor, nn

Ranks = tuple[int, ...]
LADDER = (0.06, 0.12, 0.25, 0.37, 0.5, 0.75)
"""The shares that `sensitivity` tries for each layer, beside the whole layer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """How ranks are chosen; `share` is for `ratio` and `sensitivity`, in the method's terms."""

    rank_by: Literal["energy", "ratio", "vbmf", "sensitivity"]
    energy: float
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One way to factorise a layer.

    `suits(layer)`: whether it can be applied at all.
    `at(layer, share)`: ranks that leave about this share.
    `form(layer, ranks)`: the small layers, untrained.
    `fill(form, layer)`: gives them the weights that come closest to the layer's.
    `stored(shapes)`: the ranks that a form of these weights has.
    `unfoldings(layer)`: the matrices whose ranks bound those of the form, in their order.
    """

    suits: Callable[[Any], bool]
    at: Callable[[Any, float], Ranks]
    form: "Callable[[Any, Ranks], nn.Module]"
    fill: Callable[[Any, Any], None]
    stored: Callable[[Mapping[str, tuple[int, ...]]], Ranks]
    unfoldings: "Callable[[Any], Sequence[Tensor]]"

    def layers(self, model: "nn.Module") -> Iterator[tuple[str, Any]]:
        """The names and layers of a model that it suits."""
        for name, layer in model.named_modules():
            if name and self.suits(layer):
                yield name, layer

    def made(self, layer: Any, of: Ranks) -> "nn.Module":
        """The form at these ranks with the closest weights."""
        form = self.form(layer, of)
        self.fill(form, layer)
        return form


def chosen(
    model: "nn.Module", method: Method, wanted: Wanted, bench: Bench, technique: str
) -> dict[str, Ranks]:
    """Ranks by the name of the layer, for the layers to factorise."""
    found = dict(method.layers(model))
    match wanted.rank_by:
        case "ratio":
            return {name: method.at(layer, wanted.share) for name, layer in found.items()}
        case "sensitivity":
            return _by_sensitivity(model, method, wanted.share, bench, technique)
        case "energy":
            pick: Callable[[Tensor], int] = partial(ranks.by_energy, energy=wanted.energy)
        case "vbmf":
            pick = ranks.by_vbmf
    return {name: tuple(map(pick, method.unfoldings(layer))) for name, layer in found.items()}


def replaced(model: "nn.Module", method: Method, of: Mapping[str, Ranks]) -> "nn.Module":
    """A copy of `model` in which the named layers are in factors of these ranks.

    Layers that would not hold fewer weights stay whole. Raises `Invalid` where that is all.
    """
    smaller = copy.deepcopy(model).eval()
    changed = False
    for name, layer in list(method.layers(smaller)):
        if name in of and count(form := method.form(layer, of[name])) < count(layer):
            method.fill(form, layer)
            smaller.set_submodule(name, form)
            changed = True
    if not changed:
        raise Invalid("no layer becomes smaller at these ranks")
    return smaller


def rebuilt(
    model: "nn.Module", method: Method, shapes: Mapping[str, tuple[int, ...]]
) -> "nn.Module":
    """A copy of `model` with factors, untrained, where the stored weights have them."""
    smaller = copy.deepcopy(model)
    for name, layer in list(method.layers(smaller)):
        if f"{name}.weight" not in shapes:
            inner = {
                key.removeprefix(f"{name}."): shape
                for key, shape in shapes.items()
                if key.startswith(f"{name}.")
            }
            smaller.set_submodule(name, method.form(layer, method.stored(inner)))
    return smaller


def spatial_conv(layer: Any, min_channels: int) -> bool:
    """Whether it is a plain two-dimensional convolution over more than one place, wide enough."""
    from torch import nn

    return (
        isinstance(layer, nn.Conv2d)
        and layer.groups == 1
        and max(layer.kernel_size) > 1
        and min(layer.in_channels, layer.out_channels) >= min_channels
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def along(layer: Any, axis: int, inputs: int, outputs: int, groups: int = 1) -> "nn.Conv2d":
    """The part of a convolution that runs down (axis 0) or across (axis 1), without a bias."""
    from torch import nn

    def of(values: tuple[int, int], elsewhere: int) -> tuple[int, int]:
        return (values[0], elsewhere) if axis == 0 else (elsewhere, values[1])

    return nn.Conv2d(
        inputs,
        outputs,
        of(layer.kernel_size, 1),
        stride=of(layer.stride, 1),
        padding=of(layer.padding, 0),
        dilation=of(layer.dilation, 1),
        groups=groups,
        bias=False,
    )


def count(module: "nn.Module") -> int:
    """Weights in the module."""
    return sum(parameter.numel() for parameter in module.parameters())


def by_size(sizes: Callable[[float], int], limit: float) -> float:
    """The largest share from 0 to 1 at which `sizes(share)`, which rises, is at most `limit`."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if sizes(middle) <= limit else (low, middle)
    return low


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """Ranks for one layer, none for the whole layer, what they weigh and what they do."""

    of: Ranks | None
    weights: int
    harm: float


def _by_sensitivity(
    model: "nn.Module", method: Method, share: float, bench: Bench, technique: str
) -> dict[str, Ranks]:
    """Ranks for every layer that together weigh what `ratio` would leave.

    Every layer begins at its smallest option; then weights go, step by step, where one weight
    takes most divergence away from the model's answers.
    """
    model = copy.deepcopy(model).eval()
    gauge = Gauge(model, bench)
    budget = 0
    options: dict[str, list[Option]] = {}
    for name, layer in list(method.layers(model)):
        whole = count(layer)
        budget += min(whole, count(method.form(layer, method.at(layer, share))))
        options[name] = []
        for step in LADDER:
            form = method.made(layer, of := method.at(layer, step))
            if count(form) < whole:
                model.set_submodule(name, form)
                harm = gauge.divergence(model)
                options[name].append(Option(of=of, weights=count(form), harm=harm))
        model.set_submodule(name, layer)
        if options[name]:
            gauge.note(technique, name, options[name][-1].harm)
        options[name].append(Option(of=None, weights=whole, harm=0.0))
    best = allocated(options, budget)
    return {name: option.of for name, option in best.items() if option.of is not None}


def allocated(options: Mapping[str, list[Option]], budget: int) -> dict[str, Option]:
    """One option for each layer, together within `budget` weights where the smallest are."""
    now = {name: min(of_layer, key=lambda o: o.weights) for name, of_layer in options.items()}
    while True:
        left = budget - sum(option.weights for option in now.values())
        steps = [
            ((now[name].harm - option.harm) / (option.weights - now[name].weights), name, option)
            for name, of_layer in options.items()
            for option in of_layer
            if 0 < option.weights - now[name].weights <= left and option.harm < now[name].harm
        ]
        if not steps:
            return now
        _, name, option = max(steps, key=lambda step: step[0])
        now[name] = option
