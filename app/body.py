"""Request bodies to tensors, limits first; orjson and numpy, no pydantic on this path."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson

from app import images
from app.errors import Malformed, TensorMismatch
from variants.runtimes import Tensor, Tensors
from variants.spec import ModelSpec, TensorSpec

KEYS = frozenset({"model", "inputs"})


def parse_json(raw: bytes) -> dict[str, Any]:
    """The JSON object of an inference request.

    Raises `Malformed` for anything but one strict JSON object with the known keys: duplicate keys,
    NaN, lone surrogates, NUL characters, trailing bytes and deep nesting are refused.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Malformed(f"the body is a JSON {_kind(value)}; an object is expected")
    if b"\\u0000" in raw:
        raise Malformed("the body holds a NUL character")
    # One colon a key, unless a string holds colons: only then is the slow exact check needed.
    inputs = value.get("inputs")
    keys = len(value) + (len(inputs) if isinstance(inputs, dict) else 0)
    if raw.count(b":") != keys:
        try:
            json.loads(raw, object_pairs_hook=_unique)
        except RecursionError as error:
            raise Malformed("the body is nested too deeply") from error
    if unknown := value.keys() - KEYS:
        raise Malformed(
            f"unknown key {min(unknown)!r}; known: {', '.join(sorted(KEYS))}", field=min(unknown)
        )
    if "inputs" not in value:
        raise Malformed("the body has no 'inputs'", field="inputs")
    if not isinstance(value.get("model", ""), str):
        raise Malformed("'model' is not a string", field="model")
    return value


def tensors(spec: ModelSpec, inputs: Any, raw: bytes) -> Tensors:
    """Every input of the model as `[rows, …]` in its dtype, from nested lists.

    `inputs` is one nested list for a model with one input, or lists by name; a single row may
    leave out the batch axis. For image models, a list of base64 pictures serves too.
    `raw` is the body they came from. Raises `TensorMismatch` naming the input.
    """
    if spec.preprocess is not None and (texts := _texts(inputs)):
        if len(texts) > spec.max_batch:
            raise _too_many(spec, len(texts))
        return {spec.inputs[0].name: images.decode_base64(texts, spec)}
    by_name = _by_name(spec, inputs)
    literal_booleans = b"true" in raw or b"false" in raw
    found = {t.name: _tensor(t, by_name[t.name], literal_booleans) for t in spec.inputs}
    check_rows(spec, found)
    return found


def check_rows(spec: ModelSpec, found: Mapping[str, Tensor]) -> int:
    """The rows that all tensors share. Raises `TensorMismatch` for none, too many or unequal."""
    counts = {name: len(tensor) for name, tensor in found.items()}
    rows = next(iter(counts.values()))
    if any(count != rows for count in counts.values()):
        raise TensorMismatch(f"inputs have unequal rows: {counts}", field="inputs")
    if rows == 0:
        raise TensorMismatch("the batch is empty", field="inputs")
    if rows > spec.max_batch:
        raise _too_many(spec, rows)
    return rows


def _too_many(spec: ModelSpec, rows: int) -> TensorMismatch:
    return TensorMismatch(
        f"{rows} rows; model {spec.name!r} takes at most {spec.max_batch} in one request",
        field="inputs",
    )


def _texts(inputs: Any) -> list[str]:
    if isinstance(inputs, str):
        return [inputs]
    if isinstance(inputs, list) and inputs and all(isinstance(item, str) for item in inputs):
        return inputs
    return []


def _by_name(spec: ModelSpec, inputs: Any) -> dict[str, Any]:
    names = [tensor.name for tensor in spec.inputs]
    if not isinstance(inputs, dict):
        if len(names) == 1:
            return {names[0]: inputs}
        raise TensorMismatch(
            f"model {spec.name!r} has {len(names)} inputs; name them: {names}", field="inputs"
        )
    missing, extra = sorted(set(names) - inputs.keys()), sorted(inputs.keys() - set(names))
    if missing or extra:
        shown = [name[:80] for name in extra[:5]]
        raise TensorMismatch(
            f"inputs are {names}; missing: {missing or 'none'}, unknown: {shown or 'none'}",
            field="inputs",
        )
    return inputs


def _tensor(spec: TensorSpec, value: Any, literal_booleans: bool) -> Tensor:
    where = f"input {spec.name!r}"
    if not isinstance(value, list):
        raise TensorMismatch(
            f"{where} is a JSON {_kind(value)}; a nested list is expected", field=spec.name
        )
    try:
        array = np.array(value)
    except (ValueError, OverflowError) as error:
        raise TensorMismatch(
            f"{where} is ragged: {_first_ragged(value) or error}", field=spec.name
        ) from error
    if array.size and (literal_booleans or array.dtype.kind in "OUS"):
        _check_leaves(spec, value)
    wanted = np.dtype(spec.dtype)
    if (
        array.size
        and array.dtype.kind not in {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}[wanted.kind]
    ):
        raise TensorMismatch(
            f"{where} holds {_dtype_words(array.dtype)}; {spec.dtype} is expected", field=spec.name
        )
    if array.shape == spec.shape and len(spec.shape) > 0:
        array = array[np.newaxis]
    if array.shape[1:] != spec.shape:
        raise TensorMismatch(
            f"{where} has shape {list(array.shape)}; {['rows', *spec.shape]} or one row of "
            f"{list(spec.shape)} is expected",
            field=spec.name,
        )
    return _cast(spec, array, wanted)


def _cast(spec: TensorSpec, array: Tensor, wanted: np.dtype[Any]) -> Tensor:
    if wanted.kind in "iu" and array.size:
        limits = np.iinfo(wanted)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise TensorMismatch(
                f"input {spec.name!r} has values outside {spec.dtype}", field=spec.name
            )
    with np.errstate(over="ignore"):
        out = np.ascontiguousarray(array, dtype=wanted)
    if wanted.kind == "f" and not np.isfinite(out).all():
        raise TensorMismatch(
            f"input {spec.name!r} has values outside {spec.dtype}", field=spec.name
        )
    return out


def _check_leaves(spec: TensorSpec, value: Any) -> None:
    """Name the first leaf that is not a number of the wanted kind."""
    wanted = (bool,) if spec.dtype == "bool" else (int, float)
    for index, leaf in _leaves(value, ()):
        if isinstance(leaf, bool) != (spec.dtype == "bool") or not isinstance(leaf, wanted):
            place = "".join(f"[{i}]" for i in index)
            raise TensorMismatch(
                f"input {spec.name!r}{place} is a JSON {_kind(leaf)}; {spec.dtype} is expected",
                field=spec.name,
            )


def _leaves(value: Any, index: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Any]]:
    if isinstance(value, list):
        for position, item in enumerate(value):
            yield from _leaves(item, (*index, position))
    else:
        yield index, value


def _first_ragged(value: list[Any]) -> str | None:
    """Where the first list is whose length differs from its elder siblings'."""
    level: list[tuple[tuple[int, ...], Any]] = [((), value)]
    while level:
        sizes = {len(item) if isinstance(item, list) else None for _, item in level}
        if len(sizes) > 1:
            first = level[0][1]
            expected = len(first) if isinstance(first, list) else None
            for index, item in level:
                size = len(item) if isinstance(item, list) else None
                if size != expected:
                    place = "".join(f"[{i}]" for i in index)
                    return f"{place} has {_length(size)}, the first of its kind {_length(expected)}"
        if sizes == {None}:
            return None
        level = [
            ((*index, position), child)
            for index, item in level
            for position, child in enumerate(item)
        ]
    return None


def _length(size: int | None) -> str:
    return "no list" if size is None else f"{size} items"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise Malformed(f"key {key[:80]!r} is repeated", field=key[:80])
            seen.add(key)
    return found


def _dtype_words(dtype: np.dtype[Any]) -> str:
    words = {
        "f": "fractions",
        "i": "integers",
        "u": "integers",
        "b": "booleans",
        "O": "mixed values",
    }
    return words.get(dtype.kind, "text")


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "list"
    return "object"
