"""The weights of an ONNX graph, and smaller forms to keep them in.

model = onnx.load(path)
for weight in list(weights(model)):
    store_scaled(model, weight, integers, scales)
onnx.save(model, path)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

OPSET_OF_BLOCKS = 21
"""The first opset with 4-bit integers and with one scale per block (DequantizeLinear-21)."""
_DIGITS_PAY = 4096
"""Elements from which the nodes that take digits apart are smaller than what those save."""


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
    A runtime does Cast and Mul once, as it loads the file; ONNX Runtime would do DequantizeLinear,
    which only blocks need, in every run.
    """
    from onnx import TensorProto, helper, numpy_helper

    name = weight.name
    stored = numpy_helper.from_array(values, f"{name}.{values.dtype.name}")
    if weight.inputs is None:
        _store_table(model, weight, stored, scale)
        return
    if scale.ndim > 1:
        scales = numpy_helper.from_array(scale, f"{name}.scale")
        block = weight.values.shape[weight.inputs] // scale.shape[weight.inputs]
        axes: dict[str, Any] = {"axis": weight.inputs, "block_size": block}
        nodes = [helper.make_node("DequantizeLinear", [stored.name, scales.name], [name], **axes)]
    else:
        shape = [1] * values.ndim
        shape[weight.outputs] = -1
        scales = numpy_helper.from_array(scale.reshape(shape), f"{name}.scale")
        nodes = [
            helper.make_node("Cast", [stored.name], [f"{name}.float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}.float", scales.name], [name]),
        ]
    replace(model, name, [stored, scales], nodes)


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


def narrow(model: "onnx.ModelProto", min_elements: int = 256) -> "onnx.ModelProto":
    """The model with int8 weights in the fewest bits that hold them: 1, 1.6 or 4, or as they were.

    What is in the graph widens them to int8 again, which runtimes do once, as they load the file,
    so the integer kernels stay. Nothing but the form of storage changes.
    """
    from onnx import TensorProto, numpy_helper

    if not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        _scale_once(model)
    read = {
        node.input[0] for node in model.graph.node if node.op_type in ("DequantizeLinear", "Cast")
    }
    for tensor in list(model.graph.initializer):
        if tensor.name not in read or tensor.data_type != TensorProto.INT8:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < min_elements:
            continue
        if np.abs(values).max() <= 1 and values.size >= _DIGITS_PAY:
            _store_digits(model, tensor.name, values, base=3 if (values == 0).any() else 2)
        elif values.min() >= -8 and values.max() <= 7:
            model = raise_opset(model, OPSET_OF_BLOCKS)
            _store_int4(model, tensor.name, values)
    return model


def _scale_once(model: "onnx.ModelProto") -> None:
    """Turn DequantizeLinear of weights into Cast and Mul, as in `store_scaled`.

    Only where arithmetic is float anyway; with integers it marks the operators to be fused.
    """
    from onnx import TensorProto, helper

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or not set(node.input) <= set(stored):
            nodes.append(node)
            continue
        values, scales = (stored[name] for name in node.input)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        shape = [1] * len(values.dims)
        shape[axis] = values.dims[axis]
        del scales.dims[:]
        scales.dims.extend(shape)
        (made,) = node.output
        nodes += [
            helper.make_node("Cast", [values.name], [f"{made}.float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{made}.float", scales.name], [made]),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _store_int4(model: "onnx.ModelProto", name: str, values: NDArray[np.int8]) -> None:
    from onnx import TensorProto, helper, numpy_helper

    kind = helper.tensor_dtype_to_np_dtype(TensorProto.INT4)
    tensor = numpy_helper.from_array(values.astype(kind), f"{name}.int4")
    cast = helper.make_node("Cast", [tensor.name], [name], to=TensorProto.INT8)
    replace(model, name, [tensor], [cast])


def _store_digits(
    model: "onnx.ModelProto", name: str, values: NDArray[np.int8], base: Literal[2, 3]
) -> None:
    """Keep −1 and 1 as eight bits a byte, or −1, 0 and 1 as five digits to base 3 a byte.

    A table gives each byte's values; BitShift is no way, for OpenVINO 2026.4 shifts wrongly.
    """
    from onnx import TensorProto, helper, numpy_helper

    digits = {2: 8, 3: 5}[base]
    powers = base ** np.arange(digits)
    found = (np.arange(base**digits)[:, None] // powers) % base
    table = (found * 2 - 1 if base == 2 else found - 1).astype(np.int8)
    flat = values.ravel().astype(np.int64)
    flat = (flat + 1) // 2 if base == 2 else flat + 1
    padded = np.pad(flat, (0, -len(flat) % digits)).reshape(-1, digits)
    tensors = {
        "bytes": (padded * powers).sum(axis=1).astype(np.uint8),
        "shape": np.array(values.shape, np.int64),
        "start": np.array([0], np.int64),
        "end": np.array([values.size], np.int64),
        "flat": np.array([-1], np.int64),
        "table": table,
    }

    def at(key: str) -> str:
        return f"digits.{base}.table" if key == "table" else f"{name}.{key}"

    there = {tensor.name for tensor in model.graph.initializer}
    nodes = [
        helper.make_node("Cast", [at("bytes")], [at("index")], to=TensorProto.INT32),
        helper.make_node("Gather", [at("table"), at("index")], [at("digits")], axis=0),
        helper.make_node("Reshape", [at("digits"), at("flat")], [at("padded")]),
        helper.make_node("Slice", [at("padded"), at("start"), at("end")], [at("all")]),
        helper.make_node("Reshape", [at("all"), at("shape")], [name]),
    ]
    stored = [
        numpy_helper.from_array(value, at(key))
        for key, value in tensors.items()
        if at(key) not in there
    ]
    replace(model, name, stored, nodes)
