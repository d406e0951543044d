"""What an ONNX file must look like before any runtime loads it.

Format allow-list by content, limits, then structure: opset, domains, no external data, no
functions of its own, a dynamic leading axis on every input and output. Imports `onnx`, so call it
in a throw-away process for files that strangers sent. Source: ONNX IR specification.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from variants.errors import ArtifactRejected
from variants.spec import Dtype, TensorSpec

REJECTIONS = (
    "format_not_allowed",
    "too_large",
    "malformed",
    "external_data",
    "custom_domain",
    "opset_not_allowed",
    "operator_not_allowed",
    "signature_mismatch",
    "load_failed",
    "disagrees",
)

MAX_BYTES = 2**31 - 1
MAX_NODES = 100_000
MAX_TENSOR_BYTES = 2**31 - 1
OPSETS = range(17, 24)
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""`com.microsoft` holds ONNX Runtime's own quantised operators; no code comes with the file."""

STANDARD = frozenset({"", "ai.onnx.ml"})
"""Domains whose operators the `onnx` library describes."""

_WIDTHS = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
"""Bytes per element by `TensorProto.DataType`; types that share bytes are left out."""

_FOREIGN = {
    b"\x80\x02": "pickle",
    b"\x80\x03": "pickle",
    b"\x80\x04": "pickle",
    b"\x80\x05": "pickle",
    b"PK\x03\x04": "zip archive (PyTorch, Keras, mar, npz)",
    b"PK\x05\x06": "zip archive",
    b"\x1f\x8b": "gzip",
    b"\x89HDF": "HDF5 (Keras)",
    b"\x93NUMPY": "NumPy array",
    b"GGUF": "GGUF",
    b"\x7fELF": "native library",
    b"TFL3": "TensorFlow Lite",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7-zip",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """Inputs and outputs of a graph, without the batch axis."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def check_format(path: Path) -> None:
    """Refuse what can be told from its size and first bytes alone; opens nothing with a loader.

    Raises `ArtifactRejected` with the code `too_large` or `format_not_allowed`.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ArtifactRejected("too_large", f"{size} bytes; at most {MAX_BYTES} are allowed")
    with path.open("rb") as file:
        head = file.read(512)
    for magic, name in _FOREIGN.items():
        if head.startswith(magic):
            raise ArtifactRejected("format_not_allowed", f"this is {name}; only ONNX is allowed")
    if head[257:262] == b"ustar":
        raise ArtifactRejected("format_not_allowed", "this is a tar archive; only ONNX is allowed")


def check_onnx(path: Path) -> Signature:
    """The signature of a well-formed, self-contained ONNX file.

    Raises `ArtifactRejected` with a code of `REJECTIONS` and the first thing that is wrong.
    """
    check_format(path)
    try:
        return _check_model(_parse(path))
    except UnicodeDecodeError as error:
        raise ArtifactRejected("malformed", f"a name in it is not UTF-8: {error}") from error


def _parse(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise ArtifactRejected("format_not_allowed", f"this is not ONNX: {error}") from error
    if not model.HasField("graph") or not model.opset_import or not model.graph.node:
        raise ArtifactRejected("format_not_allowed", "this is not ONNX: it holds no graph")
    return model


def _check_model(model: Any) -> Signature:
    import onnx

    for opset in model.opset_import:
        if opset.domain not in DOMAINS:
            raise ArtifactRejected("custom_domain", f"operator domain {opset.domain!r}")
        if opset.domain in ("", "ai.onnx") and opset.version not in OPSETS:
            raise ArtifactRejected(
                "opset_not_allowed",
                f"opset {opset.version}; allowed: {OPSETS.start} to {OPSETS.stop - 1}",
            )
    count = 0
    opsets = {_domain(opset.domain): opset.version for opset in model.opset_import}
    for graph in _graphs(model.graph):
        for index, node in enumerate(graph.node):
            count += 1
            _check_operator(index, node, opsets)
        if count > MAX_NODES:
            raise ArtifactRejected("too_large", f"more than {MAX_NODES} nodes")
        _check_tensors(graph)
    if model.functions:
        raise ArtifactRejected("custom_domain", "the file defines functions of its own")
    if model.training_info:
        raise ArtifactRejected("malformed", "the file holds training graphs")
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise ArtifactRejected("malformed", _first_line(error)) from error
    initialised = {tensor.name for tensor in model.graph.initializer}
    return Signature(
        inputs=tuple(_tensor(v) for v in model.graph.input if v.name not in initialised),
        outputs=tuple(_tensor(v) for v in model.graph.output),
    )


def _check_operator(index: int, node: Any, opsets: Mapping[str, int]) -> None:
    """Refuse an operator of another domain, and one that this opset does not have.

    Schemas are those of the `onnx` library; it has none for `com.microsoft`, so what is no operator
    there is found when it is loaded.
    """
    import onnx

    domain, name = _domain(node.domain), f"node {index}, operator {str(node.op_type)[:80]}"
    if domain not in DOMAINS or domain not in opsets:
        raise ArtifactRejected(
            "custom_domain", f"{name}, domain {str(node.domain)[:80]!r} is not allowed"
        )
    if domain not in STANDARD:
        return
    opset = opsets[domain]
    try:
        known = not onnx.defs.get_schema(node.op_type, opset, domain).deprecated
    except (onnx.defs.SchemaError, TypeError):  # the latter for names and numbers out of range
        known = False
    if not known:
        where = f"opset {opset}" if not domain else f"opset {opset} of {domain}"
        raise ArtifactRejected("operator_not_allowed", f"{name}, {where} is not allowed")


def _domain(name: str) -> str:
    """The domain, of which the default one has two names."""
    return "" if name == "ai.onnx" else name


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _check_tensors(graph: Any) -> None:
    import onnx

    tensors, sparse = list(graph.initializer), list(graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                tensors.append(attribute.t)
            tensors.extend(attribute.tensors)
            if attribute.HasField("sparse_tensor"):
                sparse.append(attribute.sparse_tensor)
            sparse.extend(attribute.sparse_tensors)
    for tensor in sparse:
        _check_dims("a sparse tensor", tensor.dims)
        tensors += (tensor.values, tensor.indices)
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ArtifactRejected("external_data", f"tensor {tensor.name!r} lies outside the file")
        name = f"tensor {tensor.name!r}"
        elements = _check_dims(name, tensor.dims)
        width = _WIDTHS.get(tensor.data_type)
        if width and tensor.HasField("raw_data") and len(tensor.raw_data) != elements * width:
            raise ArtifactRejected(
                "malformed",
                f"{name} has {len(tensor.raw_data)} bytes for {elements} elements of {width}",
            )


def _check_dims(name: str, dims: Iterable[int]) -> int:
    """Elements of a tensor with these dimensions."""
    elements = 1
    for size in dims:
        if size < 0:
            raise ArtifactRejected("malformed", f"{name} has a dimension of {size}")
        elements = min(elements * size, MAX_TENSOR_BYTES + 1)
    if elements > MAX_TENSOR_BYTES:
        raise ArtifactRejected("too_large", f"{name} has more than {MAX_TENSOR_BYTES} elements")
    return elements


def _graphs(graph: Any) -> Iterator[Any]:
    """The graph and all that are nested in its nodes' attributes."""
    waiting = [graph]
    while waiting:
        current = waiting.pop()
        yield current
        for node in current.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    waiting.append(attribute.g)
                waiting.extend(attribute.graphs)


def _tensor(value: Any) -> TensorSpec:

    kind = value.type.tensor_type
    dims = kind.shape.dim
    if not value.type.HasField("tensor_type") or not dims:
        raise ArtifactRejected("signature_mismatch", f"{value.name!r} is not a batched tensor")
    if dims[0].HasField("dim_value"):
        raise ArtifactRejected(
            "signature_mismatch",
            f"the batch axis of {value.name!r} is {dims[0].dim_value}, not dynamic",
        )
    for dim in dims[1:]:
        if not dim.HasField("dim_value") or dim.dim_value <= 0:
            raise ArtifactRejected(
                "signature_mismatch", f"only the first axis of {value.name!r} may be dynamic"
            )
    return TensorSpec(
        name=value.name, dtype=_dtype(value), shape=tuple(d.dim_value for d in dims[1:])
    )


def _dtype(value: Any) -> Dtype:
    import onnx

    number = value.type.tensor_type.elem_type
    allowed: tuple[Dtype, ...] = get_args(Dtype)
    for dtype in allowed:
        if number == onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)):
            return dtype
    raise ArtifactRejected(
        "signature_mismatch",
        f"the type of {value.name!r} is number {number}; allowed: {', '.join(allowed)}",
    )


def check_signature(
    found: Signature, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    """Raise `ArtifactRejected` unless the graph has exactly the model's tensors, in any order."""
    for side, have, want in (("input", found.inputs, inputs), ("output", found.outputs, outputs)):
        if {t.name: t for t in have} != {t.name: t for t in want}:
            raise ArtifactRejected(
                "signature_mismatch", f"{side}s are {_words(have)}, the model has {_words(want)}"
            )


def _words(tensors: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{t.name} {t.dtype}{list(t.shape)}" for t in tensors) or "none"
