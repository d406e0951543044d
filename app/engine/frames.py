"""What travels between the gateway and a worker: a small JSON header and raw tensor bytes.

Frame: two little-endian uint32 (header bytes, payload bytes), the header, the payload. Tensors are
C-contiguous and follow one another in the order of the header's `tensors`. Never pickle.
"""

import math
import struct
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import orjson

from variants.runtimes import Tensor
from variants.spec import Dtype

PREFIX = struct.Struct("<II")
VIEWED_BYTES = 16 << 10
MAX_HEADER_BYTES = 1 << 20
MAX_PAYLOAD_BYTES = 1 << 30
DTYPES = {np.dtype(name).str: np.dtype(name) for name in get_args(Dtype)}
"""What a model's tensors can be, by the code that travels."""


class BadFrame(Exception):
    """The other side sent something that is not a frame, or one beyond the limits."""


def pack(
    header: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
) -> list[bytes | memoryview]:
    """The frame's parts, ready for a vectored write; the tensors are not copied.

    Raises `BadFrame` beyond the limits and for tensors of other types than a model can have.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in (tensors or {}).items()}
    for name, array in arrays.items():
        if array.dtype.str not in DTYPES:
            raise BadFrame(f"tensor {name!r} is of type {array.dtype}")
    described = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
    head = orjson.dumps({**header, "tensors": described})
    prefix = PREFIX.pack(*_limited(len(head), sum(array.nbytes for array in arrays.values())))
    return [prefix + head, *map(_bytes, arrays.values())]


def sizes(prefix: bytes) -> tuple[int, int]:
    """Header and payload bytes that follow. Raises `BadFrame` beyond the limits."""
    if len(prefix) != PREFIX.size:
        raise BadFrame(f"a prefix of {len(prefix)} bytes")
    return _limited(*PREFIX.unpack(prefix))


def unpack(header: bytes, payload: bytes | memoryview) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors (views into `payload`). Raises `BadFrame` where they disagree."""
    tensors: dict[str, Tensor] = {}
    offset = 0
    try:
        message = orjson.loads(header)
        for name, code, shape in message.pop("tensors"):
            dtype = DTYPES[code]
            end = offset + math.prod(map(_size, shape)) * dtype.itemsize
            if end > len(payload) or name in tensors:
                raise BadFrame(f"tensor {name!r} ends at {end} of {len(payload)} bytes")
            flat = np.frombuffer(memoryview(payload)[offset:end], dtype)
            tensors[name] = flat.reshape(shape)
            offset = end
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise BadFrame(str(error)) from error
    if offset != len(payload):
        raise BadFrame(f"{len(payload) - offset} bytes too many")
    return message, tensors


def _bytes(array: Tensor) -> bytes | memoryview:
    """The array's memory; small ones are cheaper to copy than to describe."""
    if array.nbytes < VIEWED_BYTES:
        return array.tobytes()
    return array.reshape(-1).view(np.uint8).data


def _limited(header_bytes: int, payload_bytes: int) -> tuple[int, int]:
    if header_bytes > MAX_HEADER_BYTES or payload_bytes > MAX_PAYLOAD_BYTES:
        raise BadFrame(f"header of {header_bytes} bytes, payload of {payload_bytes}")
    return header_bytes, payload_bytes


def _size(value: object) -> int:
    if type(value) is not int or value < 0:
        raise BadFrame(f"a dimension of {value!r}")
    return value
