"""What travels between the gateway and a worker: a small JSON header and raw tensor bytes.

Frame: two little-endian uint32 (header bytes, payload bytes), the header, the payload. Tensors are
C-contiguous and follow one another in the order of the header's `tensors`. Never pickle.
"""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from variants.runtimes import Tensor

PREFIX = struct.Struct("<II")
MAX_HEADER_BYTES = 1 << 20
MAX_PAYLOAD_BYTES = 1 << 28


class BadFrame(Exception):
    """The other side sent something that is not a frame, or one beyond the limits."""


def pack(header: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> list[bytes]:
    """The frame's parts, ready for a vectored write."""
    arrays = {name: np.ascontiguousarray(array) for name, array in (tensors or {}).items()}
    described = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
    head = orjson.dumps({**header, "tensors": described})
    payload = [array.tobytes() for array in arrays.values()]
    return [PREFIX.pack(len(head), sum(map(len, payload))) + head, *payload]


def sizes(prefix: bytes) -> tuple[int, int]:
    """Header and payload bytes that follow. Raises `BadFrame` beyond the limits."""
    header, payload = PREFIX.unpack(prefix)
    if header > MAX_HEADER_BYTES or payload > MAX_PAYLOAD_BYTES:
        raise BadFrame(f"header of {header} bytes, payload of {payload}")
    return header, payload


def unpack(header: bytes, payload: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors (views into `payload`). Raises `BadFrame` where they disagree."""
    try:
        message = orjson.loads(header)
        tensors: dict[str, Tensor] = {}
        offset = 0
        for name, dtype, shape in message.pop("tensors"):
            array = np.frombuffer(payload, dtype, int(np.prod(shape)), offset).reshape(shape)
            offset += array.nbytes
            tensors[name] = array
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadFrame(str(error)) from error
    if offset != len(payload):
        raise BadFrame(f"{len(payload) - offset} bytes too many")
    return message, tensors
