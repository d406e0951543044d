"""Tensors as raw bytes, in and out: the Open Inference Protocol's binary tensor data extension.

A JSON object, whose length is in the header `Inference-Header-Content-Length`, describes the
tensors; their bytes follow it in the same order: little-endian, row by row, nothing in between. A
tensor may instead have its values there, in `data`.
Without that header (or with 0) the whole body is the one input's rows. Source: KServe, "Open
Inference Protocol, binary tensor data extension".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson

from app.body import all_finite, check_rows, listed, strict
from app.errors import Malformed, TensorMismatch
from variants.runtimes import Tensor, Tensors
from variants.spec import ModelSpec, TensorSpec

MEDIA_TYPE = "application/octet-stream"
HEADER = "Inference-Header-Content-Length"
MAX_HEADER_BYTES = 64 << 10
NAMES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int8": "INT8",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
"""The protocol's name of each of our dtypes."""

_REQUEST = frozenset({"id", "parameters", "inputs", "outputs"})
_INPUT = frozenset({"name", "shape", "datatype", "parameters", "data"})
_OUTPUT = frozenset({"name", "parameters"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a described request asks of its reply. `outputs`: which, and whether as bytes."""

    id: str | None = None
    outputs: Mapping[str, bool | None] | None = None
    binary: bool = False


class Framed(NamedTuple):
    """A described request."""

    inputs: Tensors
    wanted: Wanted


def read(spec: ModelSpec, raw: bytes, header_bytes: int) -> Framed:
    """The inputs of a request whose description has `header_bytes` bytes, 0 for none.

    The tensors are views into `raw`. Raises `Malformed` for what is no description, and
    `TensorMismatch` for one that does not fit the model or the bytes; NaN and infinity do not.
    """
    if header_bytes == 0:
        return Framed(_alone(spec, raw), Wanted())
    if header_bytes > min(len(raw), MAX_HEADER_BYTES):
        raise Malformed(
            f"{HEADER} is {header_bytes}; the body has {len(raw)} bytes, and at most "
            f"{MAX_HEADER_BYTES} may describe it",
            field=HEADER,
        )
    described = _fields(strict(raw[:header_bytes]), _REQUEST, "the description")
    inputs = described.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise Malformed("'inputs' must be a list of described tensors", field="inputs")
    parts = [_fields(item, _INPUT, f"inputs[{index}]") for index, item in enumerate(inputs)]
    wanted = _wanted(spec, described)
    names = _names(parts, "inputs")
    expected = {tensor.name: tensor for tensor in spec.inputs}
    if expected.keys() != set(names):
        missing, extra = sorted(expected.keys() - set(names)), sorted(set(names) - expected.keys())
        shown = [name[:80] for name in extra[:5]]
        raise TensorMismatch(
            f"inputs are {list(expected)}; missing: {missing or 'none'}, "
            f"unknown: {shown or 'none'}",
            field="inputs",
        )
    found: dict[str, Tensor] = {}
    start = header_bytes
    for name, part in zip(names, parts, strict=True):
        shape = _shape(expected[name], part)
        if "data" in part:
            found[name] = _as_list(expected[name], part, shape)
            continue
        size = _declared_bytes(expected[name], part, shape)
        if start + size > len(raw):
            raise TensorMismatch(
                f"input {name!r} ends at byte {start + size}; the body has {len(raw)}", field=name
            )
        found[name] = _tensor(expected[name], raw, start, shape)
        start += size
    if start != len(raw):
        raise TensorMismatch(
            f"{len(raw) - start} bytes follow the last input", field="binary_data_size"
        )
    check_rows(spec, found)
    return Framed(found, wanted)


def write(
    content: Mapping[str, Any], outputs: Mapping[str, tuple[Tensor, bool]]
) -> tuple[bytes, int]:
    """A reply's body and the bytes of its description.

    `outputs` by name, each with whether it goes as bytes. `content` is what the description says
    besides.
    """
    described, parts = [], []
    for name, (tensor, binary) in outputs.items():
        array = np.ascontiguousarray(tensor)
        entry: dict[str, Any] = {
            "name": name,
            "datatype": NAMES[array.dtype.name],
            "shape": array.shape,
        }
        if binary:
            entry["parameters"] = {"binary_data_size": array.nbytes}
            parts.append(array.tobytes())
        else:
            entry["data"] = array.reshape(-1)
        described.append(entry)
    head = orjson.dumps({**content, "outputs": described}, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join((head, *parts)), len(head)


def _alone(spec: ModelSpec, raw: bytes) -> Tensors:
    """The rows of the only input, as the whole body."""
    if len(spec.inputs) != 1:
        names = [tensor.name for tensor in spec.inputs]
        raise Malformed(
            f"model {spec.name!r} has {len(names)} inputs: {names}; describe them, and send the "
            f"description's length in {HEADER}",
            field=HEADER,
        )
    tensor = spec.inputs[0]
    row_bytes = tensor.elements * np.dtype(tensor.dtype).itemsize
    rows, rest = divmod(len(raw), row_bytes)
    if rest:
        raise TensorMismatch(
            f"the body has {len(raw)} bytes; a row of input {tensor.name!r}, "
            f"{tensor.dtype}{list(tensor.shape)}, has {row_bytes}",
            field=tensor.name,
        )
    found = {tensor.name: _tensor(tensor, raw, 0, (rows, *tensor.shape))}
    check_rows(spec, found)
    return found


def _shape(spec: TensorSpec, part: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape, with rows, of a described input."""
    datatype, shape = part.get("datatype"), part.get("shape")
    if not isinstance(datatype, str) or datatype not in NAMES.values():
        raise TensorMismatch(
            f"input {spec.name!r} has the datatype {_shown(datatype)}; known: "
            f"{', '.join(NAMES.values())}",
            field=spec.name,
        )
    if datatype != NAMES[spec.dtype]:
        raise TensorMismatch(
            f"input {spec.name!r} is {datatype}; the model takes {NAMES[spec.dtype]}",
            field=spec.name,
        )
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise TensorMismatch(
            f"input {spec.name!r} has the shape {_shown(shape)}; whole numbers are expected",
            field=spec.name,
        )
    dims = tuple(shape)
    whole = (1, *dims) if dims == spec.shape and dims else dims
    if whole[1:] != spec.shape or not whole:
        raise TensorMismatch(
            f"input {spec.name!r} has shape {_shown(shape)}; {['rows', *spec.shape]} or one row "
            f"of {list(spec.shape)} is expected",
            field=spec.name,
        )
    return whole


def _declared_bytes(spec: TensorSpec, part: Mapping[str, Any], shape: tuple[int, ...]) -> int:
    """The bytes of a tensor of this shape, which must be those that the description says."""
    size = math.prod(shape) * np.dtype(spec.dtype).itemsize
    parameters = _fields(part.get("parameters", {}), frozenset({"binary_data_size"}), "parameters")
    declared = parameters.get("binary_data_size")
    if type(declared) is not int or declared != size:
        raise TensorMismatch(
            f"input {spec.name!r} of shape {_shown(list(shape))} has {size} bytes; "
            f"binary_data_size is {_shown(declared)}",
            field=spec.name,
        )
    return size


def _as_list(spec: TensorSpec, part: Mapping[str, Any], shape: tuple[int, ...]) -> Tensor:
    if _fields(part.get("parameters", {}), frozenset({"binary_data_size"}), "parameters"):
        raise TensorMismatch(
            f"input {spec.name!r} has both data and binary_data_size; give one", field=spec.name
        )
    if 0 in shape:
        return np.empty(shape, spec.dtype)  # refused with the other things that a batch must not be
    return listed(spec, part["data"], shape)


def _tensor(spec: TensorSpec, raw: bytes, start: int, shape: tuple[int, ...]) -> Tensor:
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    if 0 in shape:
        return np.empty(shape, dtype)  # refused with the other things that a batch must not be
    array: Tensor = np.frombuffer(raw, dtype, math.prod(shape), start).reshape(shape)
    if dtype.kind == "f" and not all_finite(array):
        raise TensorMismatch(f"input {spec.name!r} holds NaN or infinity", field=spec.name)
    if dtype.kind == "b" and (array.view(np.uint8) > 1).any():
        raise TensorMismatch(f"input {spec.name!r} holds bytes other than 0 and 1", field=spec.name)
    return array


def _wanted(spec: ModelSpec, described: Mapping[str, Any]) -> Wanted:
    id = described.get("id")
    if id is not None and (not isinstance(id, str) or len(id) > 128):
        raise Malformed("'id' must be a text of at most 128 characters", field="id")
    parameters = _fields(
        described.get("parameters", {}), frozenset({"binary_data_output"}), "parameters"
    )
    binary = _flag(parameters, "binary_data_output")
    listed = described.get("outputs")
    if listed is None:
        return Wanted(id=id, binary=bool(binary))
    if not isinstance(listed, list):
        raise Malformed("'outputs' must be a list", field="outputs")
    parts = [_fields(item, _OUTPUT, f"outputs[{index}]") for index, item in enumerate(listed)]
    names, known = _names(parts, "outputs"), [tensor.name for tensor in spec.outputs]
    if unknown := set(names) - set(known):
        shown = sorted(name[:80] for name in unknown)[:5]
        raise TensorMismatch(f"outputs are {known}; unknown: {shown}", field="outputs")
    outputs = {
        name: _flag(
            _fields(part.get("parameters", {}), frozenset({"binary_data"}), "parameters"),
            "binary_data",
        )
        for name, part in zip(names, parts, strict=True)
    }
    return Wanted(id=id, outputs=outputs or None, binary=bool(binary))


def _names(parts: list[dict[str, Any]], where: str) -> list[str]:
    names: dict[str, None] = {}
    for index, part in enumerate(parts):
        name = part.get("name")
        if not isinstance(name, str):
            raise Malformed(f"{where}[{index}] has no name", field=where)
        if name in names:
            raise TensorMismatch(f"{where} has {name[:80]!r} twice", field=where)
        names[name] = None
    return list(names)


def _flag(parameters: Mapping[str, Any], name: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise Malformed(f"{name!r} must be true or false", field=name)
    return value


def _fields(value: Any, known: frozenset[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(f"{where} must be a JSON object")
    if unknown := value.keys() - known:
        name = min(unknown)[:80]
        raise Malformed(
            f"{where} has the key {name!r}; known: {', '.join(sorted(known))}", field=name
        )
    return value


def _shown(value: Any) -> str:
    text = "missing" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
