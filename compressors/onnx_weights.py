"""The weights of an ONNX graph, and smaller forms to keep them in.

model = onnx.load(path)
for weight in list(weights(model)):
    store_scaled(model, weight, integers, scales)
onnx.save(model, path)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

OPSET_OF_BLOCKS = 21
"""The first opset with 4-bit integers and with one scale per block (DequantizeLinear-21)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weight:
    """A float32 weight and how its layer reads it.

    `outputs` is the axis of output channels and `inputs` the one that is summed over; in a table
    that is only looked up, `outputs` is the axis of rows and `inputs` is None.
    """

    name: str
    layer: str
    values: NDArray[np.float32]
    outputs: int
    inputs: int | None


def weights(model: "onnx.ModelProto", min_elements: int = 1) -> Iterator[Weight]:
    """Weights of Conv, Gemm, MatMul and of tables (Gather), each used by one node."""
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    used: dict[str, list[tuple[Any, int]]] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            used.setdefault(name, []).append((node, place))
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < min_elements:
            continue
        match used.get(tensor.name, []):
            case [(node, place)] if (axes := _axes(node, place, len(tensor.dims))) is not None:
                yield Weight(
                    name=tensor.name,
                    layer=node.name or tensor.name,
                    values=numpy_helper.to_array(tensor),
                    outputs=axes[0],
                    inputs=axes[1],
                )


def _axes(node: Any, place: int, rank: int) -> tuple[int, int | None] | None:
    """The axes of output and input channels of this input of the node, where it is a weight."""
    values = {attribute.name: attribute.i for attribute in node.attribute}
    match node.op_type, place:
        case ("Conv", 1):
            return 0, 1
        case ("Gemm", 1):
            return (0, 1) if values.get("transB") else (1, 0)
        case ("MatMul", 1) if rank == 2:
            return 1, 0
        case ("Gather", 0) if rank == 2 and values.get("axis", 0) == 0:
            return 0, None
    return None


def replace(
    model: "onnx.ModelProto",
    name: str,
    tensors: Sequence["onnx.TensorProto"],
    nodes: Sequence["onnx.NodeProto"],
) -> None:
    """Put `tensors` in the place of an initialiser; `nodes` make the value `name` of them."""
    graph = model.graph
    kept = [tensor for tensor in graph.initializer if tensor.name != name]
    rest = list(graph.node)
    del graph.initializer[:]
    graph.initializer.extend((*kept, *tensors))
    del graph.node[:]
    graph.node.extend((*nodes, *rest))


def store_cast(model: "onnx.ModelProto", name: str, values: "NDArray[Any]") -> None:
    """Keep an initialiser in the type of `values`, and cast it to float32 in the graph."""
    from onnx import TensorProto, helper, numpy_helper

    tensor = numpy_helper.from_array(values, f"{name}.{values.dtype.name}")
    cast = helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT)
    replace(model, name, [tensor], [cast])


def store_scaled(
    model: "onnx.ModelProto", weight: Weight, values: "NDArray[Any]", scale: NDArray[np.float32]
) -> None:
    """Keep a weight as `values` of its shape in a small type, times `scale`.

    `scale` is `[output channels]`, or has the weight's rank with one entry per block along
    `weight.inputs`, which needs opset 21. A table's rows are scaled after they are looked up.
    Source: ONNX operator DequantizeLinear.
    """
    from onnx import helper, numpy_helper

    name = weight.name
    stored = numpy_helper.from_array(values, f"{name}.{values.dtype.name}")
    scales = numpy_helper.from_array(scale, f"{name}.scale")
    if weight.inputs is None:
        _store_table(model, weight, stored, scale)
        return
    axes: dict[str, Any] = {"axis": weight.outputs}
    if scale.ndim > 1:
        block = weight.values.shape[weight.inputs] // scale.shape[weight.inputs]
        axes = {"axis": weight.inputs, "block_size": block}
    node = helper.make_node("DequantizeLinear", [stored.name, scales.name], [name], **axes)
    replace(model, name, [stored, scales], [node])


def _store_table(
    model: "onnx.ModelProto", weight: Weight, stored: "onnx.TensorProto", scale: NDArray[np.float32]
) -> None:
    """Look rows and their scales up first, so that only those are made float32."""
    from onnx import TensorProto, helper, numpy_helper

    scales = numpy_helper.from_array(scale[:, None], f"{weight.name}.scale")
    graph = model.graph
    at, lookup = next(
        (at, node) for at, node in enumerate(graph.node) if node.input[:1] == [weight.name]
    )
    _, rows = lookup.input
    (found,) = lookup.output
    # ONNX Runtime's Gather takes neither 4-bit integers nor 8-bit floats; these hold them exactly.
    widened: dict[int, int] = {
        TensorProto.INT4: TensorProto.INT8,
        TensorProto.FLOAT8E4M3FN: TensorProto.FLOAT16,
        TensorProto.FLOAT8E5M2: TensorProto.FLOAT16,
    }
    table, nodes = stored.name, []
    if (kind := widened.get(stored.data_type)) is not None:
        table = f"{weight.name}.table"
        nodes.append(helper.make_node("Cast", [stored.name], [table], to=kind))
    nodes += [
        helper.make_node("Gather", [table, rows], [f"{found}.stored"], axis=0),
        helper.make_node("Cast", [f"{found}.stored"], [f"{found}.float"], to=TensorProto.FLOAT),
        helper.make_node("Gather", [scales.name, rows], [f"{found}.scale"], axis=0),
        helper.make_node("Mul", [f"{found}.float", f"{found}.scale"], [found]),
    ]
    kept = [tensor for tensor in graph.initializer if tensor.name != weight.name]
    changed = [*graph.node[:at], *nodes, *graph.node[at + 1 :]]
    del graph.initializer[:]
    graph.initializer.extend((*kept, stored, scales))
    del graph.node[:]
    graph.node.extend(changed)


def raise_opset(model: "onnx.ModelProto", least: int) -> "onnx.ModelProto":
    """The model in opset `least` of the standard domain, or as it is where that is lower."""
    from onnx import version_converter

    have = next((x.version for x in model.opset_import if x.domain in ("", "ai.onnx")), least)
    return model if have >= least else version_converter.convert_version(model, least)
