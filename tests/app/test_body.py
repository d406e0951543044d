"""JSON bodies to tensors: what numpy would make of them, or a refusal that names the place."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from app import body
from app.errors import Malformed, TensorMismatch
from tests import models
from variants.spec import Dtype, ModelSpec, TensorSpec

DTYPES: list[Dtype] = ["float32", "float16", "float64", "int64", "int32", "int8", "uint8", "bool"]


def spec_of(dtype: Dtype, shape: tuple[int, ...]) -> ModelSpec:
    return ModelSpec(
        name="any",
        task="tensors",
        inputs=(TensorSpec(name="x", dtype=dtype, shape=shape),),
        outputs=(TensorSpec(name="y", dtype=dtype, shape=shape),),
    )


def read(spec: ModelSpec, inputs: Any) -> dict[str, Any]:
    raw = json.dumps({"model": "any", "inputs": inputs}).encode()
    return dict(body.tensors(spec, body.parse_json(raw)))


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    dtype=st.sampled_from(DTYPES),
    shape=arrays.array_shapes(min_dims=0, max_dims=3, max_side=4),
    rows=st.integers(1, 4),
)
def test_tensors_come_out_as_numpy_has_them(
    data: st.DataObject, dtype: Dtype, shape: tuple[int, ...], rows: int
) -> None:
    finite: dict[str, Any] = (
        {"allow_nan": False, "allow_infinity": False} if "float" in dtype else {}
    )
    elements = arrays.from_dtype(np.dtype(dtype), **finite)
    array = data.draw(arrays.arrays(dtype, (rows, *shape), elements=elements))
    for inputs in (array.tolist(), {"x": array.tolist()}):
        found = read(spec_of(dtype, shape), inputs)["x"]
        assert found.dtype == array.dtype and found.flags.c_contiguous
        np.testing.assert_array_equal(found, array)
    if shape:
        np.testing.assert_array_equal(
            read(spec_of(dtype, shape), array[0].tolist())["x"], array[:1]
        )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=30,
)


@settings(max_examples=500, deadline=None)
@given(inputs=JSON, dtype=st.sampled_from(DTYPES), shape=st.sampled_from([(), (1,), (2, 2)]))
def test_any_json_value_is_a_tensor_or_a_refusal(
    inputs: Any, dtype: Dtype, shape: tuple[int, ...]
) -> None:
    try:
        found = read(spec_of(dtype, shape), inputs)["x"]
    except (Malformed, TensorMismatch) as error:
        assert str(error)
    else:
        assert found.dtype == np.dtype(dtype) and found.shape[1:] == shape


@settings(max_examples=500, deadline=None)
@given(
    raw=st.binary(max_size=80)
    | st.text('{}[]":,\\u019.eE+-ntrfalsxmodeip ', max_size=60).map(str.encode)
)
def test_any_bytes_are_a_request_or_malformed(raw: bytes) -> None:
    try:
        body.parse_json(raw)
    except Malformed as error:
        assert str(error)


@given(
    pairs=st.lists(st.tuples(st.sampled_from(["a", "b", ":", "inputs", '"']), JSON), max_size=5),
    depth=st.integers(0, 2),
)
def test_a_repeated_key_is_found_at_any_depth(pairs: list[tuple[str, Any]], depth: int) -> None:
    text = ",".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in pairs)
    raw = ('{"x":[' * depth + "{" + text + "}" + "]}" * depth).encode()
    repeated = len({key for key, _ in pairs}) < len(pairs)
    if b"Infinity" in raw:
        return
    if repeated:
        with pytest.raises(Malformed):
            body.strict(raw)
    elif b"\\u0000" not in raw:
        assert body.strict(raw) == json.loads(raw, parse_int=_like_orjson)


def _like_orjson(digits: str) -> int | float:
    """Integers beyond 64 bits are read as floats."""
    number = int(digits)
    return number if -(2**63) <= number < 2**64 else float(number)


def test_text_among_numbers_is_refused_before_numpy_allocates_for_it() -> None:
    long = "a" * 100_000
    for inputs in ([long, *[""] * 100_000], [":" * 100_000, *[1] * 100_000], ["model", long]):
        with pytest.raises(TensorMismatch, match="JSON string"):
            read(models.tiny_spec(), inputs)


def test_unequal_rows_are_refused() -> None:
    inputs = {"x": [[[1, 1, 1], [1, 1, 1]]], "ids": [[1, 2]] * 2, "flag": [[True]]}
    with pytest.raises(TensorMismatch, match="unequal rows"):
        read(models.pair_spec(), inputs)


def test_the_first_bad_leaf_is_named_even_among_many() -> None:
    rows: list[list[Any]] = [[1.0, 2.0, 3.0, 4.0] for _ in range(30)]
    rows[17][2] = "3"
    with pytest.raises(TensorMismatch, match=r"\[17\]\[2\] is a JSON string"):
        read(models.tiny_spec(), rows)
