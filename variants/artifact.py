"""What an ONNX file must look like before any runtime loads it.

Format allow-list by content, limits, then structure: opset, domains, no external data, no
functions of its own, no value that cannot be held, a dynamic leading axis on every input and
output. `check_format` parses nothing; `check_onnx` imports `onnx`, so call it in a throw-away
process for files that strangers sent. Source: ONNX IR specification.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from variants import wire
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
MAX_VALUES = 4 * MAX_NODES
"""Declared inputs, outputs, initialisers and inner values."""

MAX_TENSOR_BYTES = 2**31 - 1
MAX_OPSETS = 16
MAX_DESCRIPTION_BYTES = 64 << 20
"""Documentation and metadata of the file and its nodes; exporters write stack traces there."""

MAX_QUOTED = 80
"""Characters of a name that a refusal quotes."""

MAX_NAMED = 8
"""Tensors that a refusal lists."""

OPSETS = range(17, 24)
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""`com.microsoft` holds ONNX Runtime's own quantised operators; no code comes with the file."""

STANDARD = frozenset({"", "ai.onnx.ml"})
"""Domains whose operators the `onnx` library describes."""

OUTWARD = frozenset({"ATen", "EPContext", "PythonOp", "PythonOpGrad", "Snpe"})
"""Operators of these domains that name code or files outside the graph."""

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
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7-zip",
    b"Rar!": "RAR archive",
    b"\x28\xb5\x2f\xfd": "Zstandard",
}
_FOREIGN_AT_4 = {b"TFL3": "TensorFlow Lite", b"ORTM": "ONNX Runtime's own format"}

_ZIP_END = b"PK\x05\x06"
_ZIP_END_BYTES = 22
_ZIP_COMMENT_BYTES = 0xFFFF


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """Inputs and outputs of a graph, without the batch axis."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def check_format(path: Path) -> None:
    """Refuse what can be told without parsing; opens nothing with a loader.

    Raises `ArtifactRejected` with the code `too_large` or `format_not_allowed`.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ArtifactRejected("too_large", f"{size} bytes; at most {MAX_BYTES} are allowed")
    if name := _foreign(path, size):
        raise ArtifactRejected("format_not_allowed", f"this is {name}; only ONNX is allowed")
    try:
        wire.check(path)
    except wire.NotOnnx as error:
        raise ArtifactRejected("format_not_allowed", f"this is not ONNX: {error}") from error


def _foreign(path: Path, size: int) -> str | None:
    """What other format the file is in, or carries at its end."""
    with path.open("rb") as file:
        head = file.read(512)
        file.seek(max(0, size - _ZIP_END_BYTES - _ZIP_COMMENT_BYTES))
        tail = file.read()
    for magic, name in _FOREIGN.items():
        if head.startswith(magic):
            return name
    if head[257:262] == b"ustar":
        return "a tar archive"
    if _ends_as_zip(tail, size):
        return "a zip archive behind other bytes"
    return _FOREIGN_AT_4.get(head[4:8])


def _ends_as_zip(tail: bytes, size: int) -> bool:
    """Whether a reader of zip archives would find one, however the file begins.

    Such a reader looks for the end record from behind. Weights may hold its four first bytes by
    chance, but then the numbers after them do not fit. Source: APPNOTE.TXT, section 4.3.16.
    """
    at = tail.rfind(_ZIP_END)
    while at >= 0:
        record = tail[at : at + _ZIP_END_BYTES]
        if len(record) == _ZIP_END_BYTES:
            disk, first, here, entries, length, start, _ = struct.unpack("<4x4H2LH", record)
            before = size - len(tail) + at
            if disk == first == 0 and here == entries and length + start <= before:
                return True
        at = tail.rfind(_ZIP_END, 0, at)
    return False


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

    _check_domains(model)
    _check_size(model)
    opsets = {_domain(opset.domain): opset.version for opset in model.opset_import}
    for graph in _graphs(model.graph):
        for index, node in enumerate(graph.node):
            _check_operator(index, node, opsets)
        _check_tensors(graph)
    if model.functions:
        name = _quoted(model.functions[0].name)
        raise ArtifactRejected("custom_domain", f"the file defines functions of its own: {name}")
    if model.training_info:
        raise ArtifactRejected("malformed", "the file holds training graphs")
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise ArtifactRejected("malformed", " ".join(str(error).split())) from error
    initialised = {tensor.name for tensor in model.graph.initializer}
    signature = Signature(
        inputs=tuple(_tensor(v) for v in model.graph.input if v.name not in initialised),
        outputs=tuple(_tensor(v) for v in model.graph.output),
    )
    _check_values(model)
    return signature


def _check_operator(index: int, node: Any, opsets: Mapping[str, int]) -> None:
    """Refuse an operator of another domain, and one that this opset does not have.

    Schemas are those of the `onnx` library; it has none for `com.microsoft`, so what is no operator
    there is found when it is loaded.
    """
    import onnx

    domain, name = _domain(node.domain), _where(index, node)
    if domain not in DOMAINS or domain not in opsets:
        raise ArtifactRejected(
            "custom_domain", f"{name}, domain {_quoted(node.domain)} is not allowed"
        )
    if node.op_type in OUTWARD:
        raise ArtifactRejected("custom_domain", f"{name} names code or files outside the graph")
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


def _check_domains(model: Any) -> None:
    if len(model.opset_import) > MAX_OPSETS:
        raise ArtifactRejected(
            "too_large", f"{len(model.opset_import)} operator sets; at most {MAX_OPSETS}"
        )
    for opset in model.opset_import:
        if opset.domain not in DOMAINS:
            raise ArtifactRejected("custom_domain", f"operator domain {_quoted(opset.domain)}")
        if opset.domain in ("", "ai.onnx") and opset.version not in OPSETS:
            raise ArtifactRejected(
                "opset_not_allowed",
                f"opset {opset.version}; allowed: {OPSETS.start} to {OPSETS.stop - 1}",
            )


def _check_size(model: Any) -> None:
    """Bound the numbers of nodes and values and the length of descriptions, in all graphs."""
    nodes = values = 0
    described = _description_bytes(model)
    for graph in _graphs(model.graph):
        nodes += len(graph.node)
        values += len(graph.input) + len(graph.output) + len(graph.value_info)
        values += len(graph.initializer) + len(graph.sparse_initializer)
        if nodes > MAX_NODES:
            raise ArtifactRejected("too_large", f"more than {MAX_NODES} nodes")
        if values > MAX_VALUES:
            raise ArtifactRejected(
                "too_large", f"more than {MAX_VALUES} inputs, outputs and values"
            )
        described += _description_bytes(graph) + sum(map(_description_bytes, graph.node))
    if described > MAX_DESCRIPTION_BYTES:
        raise ArtifactRejected(
            "too_large",
            f"{described} bytes of descriptions; at most {MAX_DESCRIPTION_BYTES} are allowed",
        )
    size = model.ByteSize()
    model.DiscardUnknownFields()
    if (unknown := size - model.ByteSize()) != 0:
        raise ArtifactRejected("malformed", f"{unknown} bytes of it are fields that ONNX has not")


def _description_bytes(part: Any) -> int:
    entries = sum(len(entry.key) + len(entry.value) for entry in part.metadata_props)
    return len(part.doc_string) + entries


def _check_values(model: Any) -> None:
    """Refuse a graph that says of a value that it is too large to be held.

    This is about constants that are small in the file and grow: `ConstantOfShape`, `Expand`,
    `Tile`, `Range`. A batch counts as one row. What cannot be told by inference of shapes shows in
    the trial; inference is not asked to compute values, which it would do at any size. Takes the
    bytes of large initialisers out of the model, which inference has no use for and would copy.
    """
    import onnx

    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 1024:
            tensor.ClearField("raw_data")
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return  # runtimes judge by rules of their own
    for graph in _graphs(inferred.graph):
        makers = {
            output: _where(index, node)
            for index, node in enumerate(graph.node)
            for output in node.output
        }
        for value in graph.value_info:
            sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            where = makers.get(value.name, "the graph")
            _check_dims(f"{where}: its output {_quoted(value.name)}", (n for n in sizes if n > 0))


def _where(index: int, node: Any) -> str:
    """How a refusal names a node."""
    name = f" {_quoted(node.name)}" if node.name else ""
    return f"node {index}{name}, operator {node.op_type[:MAX_QUOTED]}"


def _quoted(name: str) -> str:
    return repr(name if len(name) <= MAX_QUOTED else name[:MAX_QUOTED] + "…")


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
        name = f"tensor {_quoted(tensor.name)}"
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ArtifactRejected("external_data", f"{name} lies outside the file")
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
        raise ArtifactRejected(
            "signature_mismatch", f"{_quoted(value.name)} is not a batched tensor"
        )
    if dims[0].HasField("dim_value"):
        raise ArtifactRejected(
            "signature_mismatch",
            f"the batch axis of {_quoted(value.name)} is {dims[0].dim_value}, not dynamic",
        )
    for dim in dims[1:]:
        if not dim.HasField("dim_value") or dim.dim_value <= 0:
            raise ArtifactRejected(
                "signature_mismatch", f"only the first axis of {_quoted(value.name)} may be dynamic"
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
        f"the type of {_quoted(value.name)} is number {number}; allowed: {', '.join(allowed)}",
    )


def check_signature(
    found: Signature, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    """Raise `ArtifactRejected` unless the graph has exactly the model's tensors, in any order."""
    for side, have, want in (("input", found.inputs, inputs), ("output", found.outputs, outputs)):
        if sorted(map(repr, have)) != sorted(map(repr, want)):
            raise ArtifactRejected(
                "signature_mismatch", f"{side}s are {_words(have)}, the model has {_words(want)}"
            )


def _words(tensors: tuple[TensorSpec, ...]) -> str:
    shown = [f"{t.name[:MAX_QUOTED]} {t.dtype}{list(t.shape)}" for t in tensors[:MAX_NAMED]]
    more = [f"{len(tensors) - MAX_NAMED} more"] if len(tensors) > MAX_NAMED else []
    return ", ".join(shown + more) or "none"
