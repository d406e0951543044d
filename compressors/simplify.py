"""Exact changes of an exported graph that let runtimes and quantisers fuse more."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx


def pool_last(model: "onnx.ModelProto") -> None:
    """Move rising functions from behind max pools to before them, in place.

    What never falls, such as a rectifier or a batch normalisation with positive scales, gives the
    same before a maximum as after it; before it, it fuses with the convolution that it follows.
    """
    while (pair := _next(model.graph)) is not None:
        first, second = pair
        nodes = list(model.graph.node)
        pool, function = nodes[first], nodes[second]
        between = pool.output[0]
        function.input[0], pool.input[0] = pool.input[0], between
        pool.output[0], function.output[0] = function.output[0], between
        nodes[first], nodes[second] = function, pool
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        del model.graph.value_info[:]  # the shapes between them are others now


def _next(graph: "onnx.GraphProto") -> tuple[int, int] | None:
    """The places of a max pool and of the rising function that alone reads it; None at the end."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    kept = {value.name for value in graph.output}
    readers: dict[str, list[int]] = {}
    for place, node in enumerate(graph.node):
        for name in node.input:
            readers.setdefault(name, []).append(place)
    for place, node in enumerate(graph.node):
        if node.op_type != "MaxPool" or len(node.output) > 1 or node.output[0] in kept:
            continue
        after = readers.get(node.output[0], [])
        if len(after) == 1 and _rising(graph.node[after[0]], weights):
            return place, after[0]
    return None


def _rising(node: "onnx.NodeProto", weights: "dict[str, onnx.TensorProto]") -> bool:
    from onnx import numpy_helper

    if node.op_type == "Relu":
        return True
    if node.op_type != "BatchNormalization" or node.input[1] not in weights:
        return False
    return bool(np.all(numpy_helper.to_array(weights[node.input[1]]) > 0))
