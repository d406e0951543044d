"""The models that servers are compared on: real ONNX files with random weights, and their inputs.

- `tiny`: a perceptron 64-256-10; what is measured is the server
- `cnn`: a picture of 3×32×32 through four convolutions, 0.4 million weights, about a millisecond
- `picture`: the mean of each channel of 3×224×224; what is measured is the body
- `echo`: a row of any length, of which the first number comes back; for the curve over body sizes
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from variants.spec import ModelSpec, TensorSpec

BATCH = "batch"


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model with one float32 input `x` and one output `y`."""

    name: str
    shape: tuple[int, ...]
    classes: int
    nodes: Sequence[Any]
    weights: Sequence[Any]

    def save(self, folder: Path) -> Path:
        """Write it as an ONNX file."""
        inputs = helper.make_tensor_value_info("x", TensorProto.FLOAT, [BATCH, *self.shape])
        outputs = helper.make_tensor_value_info("y", TensorProto.FLOAT, [BATCH, self.classes])
        graph = helper.make_graph(self.nodes, self.name, [inputs], [outputs], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        onnx.checker.check_model(model)
        path = folder / f"{self.name}.onnx"
        onnx.save(model, path)
        return path

    @property
    def spec(self) -> ModelSpec:
        """What it promises."""
        return ModelSpec(
            name=self.name,
            task="tensors",
            inputs=(TensorSpec(name="x", dtype="float32", shape=self.shape),),
            outputs=(TensorSpec(name="y", dtype="float32", shape=(self.classes,)),),
        )

    def row(self) -> NDArray[np.float32]:
        """One input `[1, …]` whose numbers have four decimals, as people send them."""
        values = np.random.default_rng(1).uniform(-1, 1, (1, *self.shape))
        return values.round(4).astype(np.float32)


def tiny() -> Model:
    """A perceptron 64-256-10."""
    return Model(
        name="tiny",
        shape=(64,),
        classes=10,
        nodes=[
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["y"]),
        ],
        weights=[
            *_weights(w1=(64, 256), b1=(256,)),
            *_weights(w2=(256, 10), b2=(10,)),
        ],
    )


def cnn() -> Model:
    """Four convolutions over 3×32×32, three of them with stride 2."""
    widths, nodes, weights, before = (3, 32, 64, 128, 256), [], [], "x"
    for layer, (cin, cout) in enumerate(pairwise(widths)):
        w, b, out = f"w{layer}", f"b{layer}", f"c{layer}"
        weights += _weights(**{w: (cout, cin, 3, 3), b: (cout,)})
        nodes += [
            helper.make_node("Conv", [before, w, b], [out], pads=[1] * 4),
            helper.make_node("Relu", [out], [f"r{layer}"]),
        ]
        before = f"r{layer}"
        if layer:
            nodes.append(
                helper.make_node(
                    "MaxPool", [before], [f"p{layer}"], kernel_shape=[2, 2], strides=[2, 2]
                )
            )
            before = f"p{layer}"
    nodes += [
        helper.make_node("GlobalAveragePool", [before], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["y"]),
    ]
    weights += _weights(w=(256, 10), b=(10,))
    return Model(name="cnn", shape=(3, 32, 32), classes=10, nodes=nodes, weights=weights)


def picture() -> Model:
    """The mean of each channel of a picture of 3×224×224."""
    return Model(
        name="picture",
        shape=(3, 224, 224),
        classes=3,
        nodes=[
            helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["y"]),
        ],
        weights=[],
    )


def echo(values: int) -> Model:
    """The first of `values` numbers."""
    return Model(
        name=f"echo-{values}",
        shape=(values,),
        classes=1,
        nodes=[helper.make_node("Gather", ["x", "first"], ["y"], axis=1)],
        weights=[numpy_helper.from_array(np.array([0], np.int64), "first")],
    )


def _weights(**shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [
        numpy_helper.from_array(rng.normal(0, 0.05, shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
