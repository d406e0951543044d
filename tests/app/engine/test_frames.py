"""Frames survive the round trip, and nothing but `BadFrame` comes of what is not one."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from app.engine import frames
from app.engine.frames import BadFrame

DTYPES = ("float32", "float16", "float64", "int64", "int32", "int8", "uint8", "bool")
tensors = st.dictionaries(
    st.text(max_size=20),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_side=4))
    ),
    max_size=4,
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def split(parts: list[bytes]) -> tuple[bytes, bytes]:
    """Header and payload of a packed frame, its sizes checked on the way."""
    whole = b"".join(parts)
    header_bytes, payload_bytes = frames.sizes(whole[: frames.PREFIX.size])
    body = whole[frames.PREFIX.size :]
    assert len(body) == header_bytes + payload_bytes
    return body[:header_bytes], body[header_bytes:]


@given(tensors)
def test_every_tensor_survives_bit_for_bit(sent: dict[str, Any]) -> None:
    message, found = frames.unpack(*split(frames.pack({"id": 7, "op": "run"}, sent)))
    assert message == {"id": 7, "op": "run"}
    assert list(found) == list(sent)
    for name, tensor in sent.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert found[name].tobytes() == tensor.tobytes()


def test_what_lies_scattered_is_sent_in_order() -> None:
    sent = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, 1::2].T
    _, found = frames.unpack(*split(frames.pack({}, {"x": sent})))
    assert np.array_equal(found["x"], sent)


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_bytes_that_are_no_frame_are_bad_frames(header: bytes, payload: bytes) -> None:
    with pytest.raises(BadFrame):
        frames.unpack(header, payload)


@given(described=anything, payload=st.binary(max_size=32))
@settings(max_examples=300)
def test_any_description_of_tensors_is_a_frame_or_a_bad_one(described: Any, payload: bytes) -> None:
    header = json.dumps({"id": 1, "tensors": described}).encode()
    try:
        _, found = frames.unpack(header, payload)
    except BadFrame:
        return
    assert sum(tensor.nbytes for tensor in found.values()) == len(payload)


@given(
    dtype=st.sampled_from([*(np.dtype(d).str for d in DTYPES), "|O", "<M8", "|V8", "|S4", "x", ""]),
    shape=st.lists(st.integers(-3, 2**70) | st.sampled_from([True, 1.0, None, "2"]), max_size=4),
    payload=st.binary(max_size=32),
)
@settings(max_examples=300)
def test_no_dtype_or_shape_reads_past_the_payload(
    dtype: str, shape: list[Any], payload: bytes
) -> None:
    header = json.dumps({"tensors": [["x", dtype, shape]]}).encode()
    try:
        _, found = frames.unpack(header, payload)
    except BadFrame:
        return
    assert found["x"].nbytes == len(payload)
    assert list(found["x"].shape) == shape


@given(st.binary(max_size=12))
def test_sizes_are_within_the_limits_or_a_bad_frame(prefix: bytes) -> None:
    try:
        header_bytes, payload_bytes = frames.sizes(prefix)
    except BadFrame:
        return
    assert header_bytes <= frames.MAX_HEADER_BYTES
    assert payload_bytes <= frames.MAX_PAYLOAD_BYTES


def test_the_same_name_twice_is_a_bad_frame() -> None:
    header = json.dumps({"tensors": [["x", "|u1", [1]], ["x", "|u1", [1]]]}).encode()
    with pytest.raises(BadFrame, match="'x'"):
        frames.unpack(header, b"ab")


def test_a_header_beyond_the_limit_is_not_sent() -> None:
    with pytest.raises(BadFrame):
        frames.pack({"error": "x" * (frames.MAX_HEADER_BYTES + 1)})
