"""The outermost fields of an ONNX file, read without parsing what is in them.

A protobuf message is a row of fields, each a tag (number and wire type) and, for text and nested
messages, a length; so a gigabyte is walked in a few reads. What is not exactly one such message
from the first to the last byte is something else: a pickle, an archive, an ONNX file with an
archive behind it. Sources: "Encoding" of the Protocol Buffers documentation; `ModelProto` of
onnx.proto.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAX_FIELDS = 10_000
MAX_VARINT_BYTES = 10
GRAPH, OPSET_IMPORT = 7, 8

_VARINT, _BYTES = 0, 2
_MODEL = {
    1: _VARINT,  # ir_version
    2: _BYTES,  # producer_name
    3: _BYTES,  # producer_version
    4: _BYTES,  # domain
    5: _VARINT,  # model_version
    6: _BYTES,  # doc_string
    GRAPH: _BYTES,
    OPSET_IMPORT: _BYTES,
    14: _BYTES,  # metadata_props
    20: _BYTES,  # training_info
    25: _BYTES,  # functions
    26: _BYTES,  # configuration
}


class NotOnnx(ValueError):
    """The bytes are not one `ModelProto`; the message says from which byte on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One outermost field: its number, where its content begins and how many bytes it has."""

    number: int
    start: int
    size: int


def check(path: Path) -> None:
    """Raise `NotOnnx` unless the file is one model with one graph, whole and nothing behind it."""
    with path.open("rb") as file:
        numbers = [field.number for field in fields(file, path.stat().st_size)]
    graphs = numbers.count(GRAPH)
    if graphs != 1:
        raise NotOnnx("it holds no graph" if graphs == 0 else f"it holds {graphs} graphs, not one")
    if OPSET_IMPORT not in numbers:
        raise NotOnnx("it names no operator set")


def fields(file: BinaryIO, size: int) -> Iterator[Field]:
    """The fields of the model in a file of that many bytes. Raises `NotOnnx`."""
    at = 0
    for _ in range(MAX_FIELDS):
        if at == size:
            return
        begin = at
        file.seek(at)
        head = file.read(2 * MAX_VARINT_BYTES)
        tag, used = _varint(head, 0, begin)
        number, kind = tag >> 3, tag & 7
        if _MODEL.get(number) != kind:
            raise NotOnnx(f"byte {begin} begins no field of an ONNX model")
        value, used = _varint(head, used, begin)
        length = value if kind == _BYTES else 0
        at = begin + used + length
        if at > size:
            raise NotOnnx(
                f"the field at byte {begin} says that it has {length} bytes; "
                f"{size - begin - used} follow"
            )
        yield Field(number=number, start=begin + used, size=length)
    raise NotOnnx(f"it has more than {MAX_FIELDS} outermost fields")


def _varint(data: bytes, start: int, begin: int) -> tuple[int, int]:
    value = 0
    for index in range(start, min(start + MAX_VARINT_BYTES, len(data))):
        value |= (data[index] & 127) << 7 * (index - start)
        if data[index] < 128:
            return value, index + 1
    raise NotOnnx(f"the number at byte {begin} does not end")
