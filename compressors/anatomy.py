"""What a model is made of, as far as techniques ask before any work."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from compressors import blocks

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One layer with weights. `kernel` is empty for a linear layer."""

    name: str
    kind: Literal["linear", "conv"]
    inputs: int
    outputs: int
    kernel: tuple[int, ...] = ()
    groups: int = 1

    @property
    def elements(self) -> int:
        """Weights, without the bias."""
        return self.inputs * self.outputs * math.prod(self.kernel) // self.groups

    @property
    def spatial(self) -> bool:
        """Whether it is a convolution over more than one place."""
        return any(size > 1 for size in self.kernel)


@dataclass(frozen=True, kw_only=True, slots=True)
class Anatomy:
    """Layers in their order, and how many neighbours of the same form can be left out.

    `repeated_blocks` counts the modules, in lists and sequences, whose weights have the same
    shapes as those of the one before and whose output has the shape of their input as far as
    weights tell; `attention_layers` those with query, key and value; `droppable_blocks` those that
    `blocks.droppable` finds by running the model.
    """

    layers: tuple[Layer, ...]
    repeated_blocks: int = 0
    attention_layers: int = 0
    droppable_blocks: int = 0

    @property
    def linear(self) -> tuple[Layer, ...]:
        """The linear layers."""
        return tuple(layer for layer in self.layers if layer.kind == "linear")

    @property
    def convolutions(self) -> tuple[Layer, ...]:
        """The convolutions over more than one place that mix channels."""
        return tuple(x for x in self.layers if x.spatial and x.groups == 1)


def no_convolution(anatomy: Anatomy, min_channels: int) -> str:
    """Why no convolution can be factorised, or nothing."""
    if not anatomy.convolutions:
        return "it has no convolution over more than one place that mixes channels"
    widest = max(min(layer.inputs, layer.outputs) for layer in anatomy.convolutions)
    if widest < min_channels:
        return (
            f"no convolution has {min_channels} inputs and outputs (min_channels); "
            f"the widest has {widest}"
        )
    return ""


def of_module(model: "nn.Module", example: "tuple[Tensor, ...]" = ()) -> Anatomy:
    """The anatomy of a torch module; `example` inputs let it find the droppable blocks."""
    from torch import nn

    layers = []
    attention = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            layers.append(
                Layer(
                    name=name,
                    kind="linear",
                    inputs=module.in_features,
                    outputs=module.out_features,
                )
            )
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            layers.append(
                Layer(
                    name=name,
                    kind="conv",
                    inputs=module.in_channels,
                    outputs=module.out_channels,
                    kernel=tuple(module.kernel_size),
                    groups=module.groups,
                )
            )
        children = {child for child, _ in module.named_children()}
        attention += children >= {"query", "key", "value"}
    return Anatomy(
        layers=tuple(layers),
        repeated_blocks=sum(len(names) for _, names in repeated(model)),
        attention_layers=attention,
        droppable_blocks=len(blocks.droppable(model, example)) if example else 0,
    )


def repeated(model: "nn.Module") -> Iterator[tuple[str, tuple[str, ...]]]:
    """For each list or sequence: its name, and its children that repeat the child before them.

    A child repeats another where both have weights of the same names and shapes.
    """
    from torch import nn

    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        forms = {child: _form(inner) for child, inner in module.named_children()}
        order = list(forms)
        same = [b for a, b in pairwise(order) if forms[b] == forms[a] != ()]
        if same:
            yield name, tuple(same)


def _form(module: "nn.Module") -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(weight.shape)) for name, weight in module.named_parameters())


def of_onnx(path: Path) -> Anatomy:
    """The anatomy of an ONNX file: its Conv nodes, and MatMul and Gemm nodes with weights."""
    import onnx

    graph = onnx.load(path).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    return Anatomy(layers=tuple(_onnx_layers(graph, shapes)))


def _onnx_layers(graph: "onnx.GraphProto", shapes: dict[str, tuple[int, ...]]) -> Iterator[Layer]:
    for node in graph.node:
        weight = next((shapes[name] for name in node.input[1:2] if name in shapes), ())
        values = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "Conv" and len(weight) > 2:
            groups = values.get("group", 1)
            yield Layer(
                name=node.name,
                kind="conv",
                inputs=weight[1] * groups,
                outputs=weight[0],
                kernel=weight[2:],
                groups=groups,
            )
        elif node.op_type in ("MatMul", "Gemm") and len(weight) == 2:
            rows, columns = weight[::-1] if values.get("transB") else weight
            yield Layer(name=node.name, kind="linear", inputs=rows, outputs=columns)
