"""Request bodies to tensors, limits first; orjson and numpy, no pydantic on this path."""

import contextvars
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, get_args

import numpy as np
import orjson

from app import images, texts
from app.errors import Malformed, TensorMismatch
from variants.json_keys import RepeatedKey, unique
from variants.runtimes import Tensor, Tensors
from variants.spec import Dtype, ImagePreprocess, ModelSpec, TensorSpec, TextPreprocess
from variants.tokenizer import Tokenizer

KEYS = frozenset({"model", "inputs"})
MAX_SHOWN_AXES = 8
_NUMERIC = b"0123456789.,+-[] \t\r\n"
_CASTS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}
"""The kinds of numbers that become each kind of tensor."""

_DTYPES = {name: np.dtype(name) for name in get_args(Dtype)}

_QUIET = contextvars.Context()
"""Where numpy does not warn of overflow; `np.errstate` does the same at four times the price.

Each call runs in a copy, since a context cannot be entered twice at once.
"""
_QUIET.run(np.seterr, over="ignore")
_STRICT = contextvars.Context()
"""Where it raises `FloatingPointError`."""
_STRICT.run(np.seterr, over="raise")


class Request(NamedTuple):
    """A parsed body. `plain`: its lists surely hold nothing but numbers and lists."""

    model: str | None
    inputs: Any
    plain: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much of what costs time to decode one request may hold."""

    pixels: int
    characters: int


MOST = Limits(pixels=images.MAX_PIXELS, characters=texts.MAX_CHARACTERS)


def parse_json(raw: bytes) -> Request:
    """An inference request from its JSON body.

    Raises `Malformed` for anything but one strict JSON object with the known keys, as `strict`
    does.
    """
    value = strict(raw)
    if not isinstance(value, dict):
        raise Malformed(f"the body is a JSON {_kind(value)}; an object is expected")
    if not value.keys() <= KEYS:
        unknown = value.keys() - KEYS
        name = min(unknown)[:80]
        raise Malformed(f"unknown key {name!r}; known: {', '.join(sorted(KEYS))}", field=name)
    if "inputs" not in value:
        raise Malformed("the body has no 'inputs'", field="inputs")
    model, inputs = value.get("model"), value["inputs"]
    if "model" in value and not isinstance(model, str):
        raise Malformed("'model' is not a string", field="model")
    # Keys and the model's name are quoted. Every further text has two quotes more; then the leaves
    # are looked at one by one before numpy sees them: it would turn `true` into 1, and one long
    # text among many short ones into gigabytes.
    names = len(value) + (model is not None) + (len(inputs) if isinstance(inputs, dict) else 0)
    words = raw.translate(None, _NUMERIC)
    plain = words.count(b'"') == 2 * names and not (
        b"true" in words or b"false" in words or b"null" in words
    )
    return Request(model=model, inputs=inputs, plain=plain)


def strict(raw: bytes) -> Any:
    """The value of a JSON text.

    Raises `Malformed` for what other parsers let pass or read differently: duplicate keys, NaN,
    numbers beyond a double, lone surrogates, NUL characters, trailing bytes and deep nesting.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the body is not JSON: {error}") from error
    if b"\\u0000" in raw:
        raise Malformed("the body holds a NUL character")
    # One colon a key, unless a string holds colons: only then is the slow exact check needed.
    keys = 0
    if isinstance(value, dict):
        keys = len(value)
        inputs = value.get("inputs")
        if isinstance(inputs, dict):
            keys += len(inputs)
    if raw.count(b":") != keys:
        _check_keys(raw)
    return value


def _check_keys(raw: bytes) -> None:
    try:
        json.loads(raw, object_pairs_hook=unique, parse_int=len, parse_float=len)
    except RepeatedKey as error:
        raise Malformed(str(error), field=error.key[:80]) from error
    except RecursionError as error:
        raise Malformed("the body is nested too deeply") from error


def tensors(
    spec: ModelSpec,
    request: Request,
    *,
    tokenizer: Tokenizer | None = None,
    limits: Limits = MOST,
) -> Tensors:
    """Every input of the model as `[rows, …]` in its dtype, from nested lists.

    The request has one nested list for a model with one input, or lists by name; a single row may
    leave out the batch axis. Image models take base64 pictures too, text models texts. Raises
    `TensorMismatch` naming the input, and what `images.decode` and `texts.encode` raise.
    """
    if spec.preprocess is None and len(spec.inputs) == 1 and type(request.inputs) is list:
        only = spec.inputs[0]
        found: dict[str, Tensor] = {only.name: _tensor(only, request.inputs, request.plain)}
        check_rows(spec, found)
        return found
    if isinstance(spec.preprocess, TextPreprocess) and (words := _words(spec, request.inputs)):
        return texts.encode(words, spec, tokenizer, max_characters=limits.characters)
    by_name = _by_name(spec, request.inputs)
    if isinstance(spec.preprocess, ImagePreprocess):
        picture = spec.inputs[0].name
        if coded := _strings(by_name[picture]):
            if len(coded) > spec.max_batch:
                raise _too_many(spec, len(coded))
            return {picture: images.decode_base64(coded, spec, max_pixels=limits.pixels)}
    found = {t.name: _tensor(t, by_name[t.name], request.plain) for t in spec.inputs}
    check_rows(spec, found)
    return found


def check_rows(spec: ModelSpec, found: Mapping[str, Tensor]) -> int:
    """The rows that all tensors share. Raises `TensorMismatch` for none, too many or unequal."""
    rows = len(next(iter(found.values())))
    if len(found) > 1 and any(len(tensor) != rows for tensor in found.values()):
        counts = {name: len(tensor) for name, tensor in found.items()}
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


def _words(spec: ModelSpec, inputs: Any) -> list[str]:
    """The texts of a request to a text model; none where it holds tensors."""
    if not isinstance(inputs, list) or not any(isinstance(item, str) for item in inputs):
        return _strings(inputs)
    if len(inputs) > spec.max_batch:
        raise _too_many(spec, len(inputs))
    for index, item in enumerate(inputs):
        if not isinstance(item, str):
            raise TensorMismatch(
                f"inputs[{index}] is a JSON {_kind(item)}; a text is expected", field="inputs"
            )
    return inputs


def _strings(inputs: Any) -> list[str]:
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
        instead = " or send texts" if isinstance(spec.preprocess, TextPreprocess) else ""
        raise TensorMismatch(
            f"model {spec.name!r} has {len(names)} inputs; name them: {names}{instead}",
            field="inputs",
        )
    missing, extra = sorted(set(names) - inputs.keys()), sorted(inputs.keys() - set(names))
    if missing or extra:
        shown = [name[:80] for name in extra[:5]]
        raise TensorMismatch(
            f"inputs are {names}; missing: {missing or 'none'}, unknown: {shown or 'none'}",
            field="inputs",
        )
    return inputs


def listed(spec: TensorSpec, value: Any, shape: tuple[int, ...]) -> Tensor:
    """The tensor of this shape, with rows, from its values in a list: nested or flat, row by row.

    Raises `TensorMismatch`.
    """
    array = _array(spec, value, plain=False)
    if array.shape not in (shape, shape[1:], (math.prod(shape),)):
        raise TensorMismatch(
            f"input {spec.name!r} has data of shape {list(array.shape)}; {list(shape)} is declared",
            field=spec.name,
        )
    return _cast(spec, array.reshape(shape), _DTYPES[spec.dtype])


def _tensor(spec: TensorSpec, value: Any, plain: bool) -> Tensor:
    array = _array(spec, value, plain)
    if array.shape == spec.shape and len(spec.shape) > 0:
        array = array[np.newaxis]
    if array.shape[1:] != spec.shape:
        raise TensorMismatch(
            f"input {spec.name!r} has shape {list(array.shape)}; {['rows', *spec.shape]} or one "
            f"row of {list(spec.shape)} is expected",
            field=spec.name,
        )
    return _cast(spec, array, _DTYPES[spec.dtype])


def _array(spec: TensorSpec, value: Any, plain: bool) -> Tensor:
    """The values as numpy finds them, held against the kind of numbers that the input takes."""
    if not isinstance(value, list):
        raise TensorMismatch(
            f"input {spec.name!r} is a JSON {_kind(value)}; a nested list is expected",
            field=spec.name,
        )
    if not value:
        raise TensorMismatch(f"input {spec.name!r}: the batch is empty", field=spec.name)
    if not plain:
        _check_leaves(spec, value)
    wanted = _DTYPES[spec.dtype]
    try:
        array = _floats(value, wanted) if plain and wanted.kind == "f" else np.array(value)
    except (ValueError, OverflowError) as error:
        raise TensorMismatch(
            f"input {spec.name!r} is no tensor: {_first_ragged(value) or error}", field=spec.name
        ) from error
    if array.dtype.kind == "O":
        _check_leaves(spec, value)
    if array.dtype.kind not in _CASTS[wanted.kind] and array.size:
        raise TensorMismatch(
            f"input {spec.name!r} holds {_dtype_words(array.dtype)}; {spec.dtype} is expected",
            field=spec.name,
        )
    return array


def _floats(value: list[Any], wanted: np.dtype[Any]) -> Tensor:
    """Nothing but numbers, each of which can be a float; what is else comes as numpy finds it."""
    try:
        array: Tensor = _STRICT.copy().run(np.array, value, wanted)
    except (TypeError, ValueError, FloatingPointError):
        return np.array(value)
    return array


def _cast(spec: TensorSpec, array: Tensor, wanted: np.dtype[Any]) -> Tensor:
    if wanted.kind in "iu" and array.size:
        limits = np.iinfo(wanted)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise TensorMismatch(
                f"input {spec.name!r} has values outside {spec.dtype}", field=spec.name
            )
    if wanted.kind == "f" and array.dtype == wanted:
        return array  # JSON has no NaN and no infinity, and making it has not overflown
    out: Tensor = _QUIET.copy().run(np.ascontiguousarray, array, dtype=wanted)
    if wanted.kind == "f" and not all_finite(out):
        raise TensorMismatch(
            f"input {spec.name!r} has values outside {spec.dtype}", field=spec.name
        )
    return out


def all_finite(array: Tensor) -> bool:
    """Whether no value is NaN or infinite. For few values, a search is quicker than `all`."""
    finite = np.isfinite(array)
    return b"\0" not in finite.tobytes() if array.size < 4096 else bool(finite.all())


def _check_leaves(spec: TensorSpec, value: list[Any]) -> None:
    """Raise `TensorMismatch` naming the first leaf that is not of the wanted kind."""
    wanted = {bool} if spec.dtype == "bool" else {int, float}
    if _leaf_types(value) <= wanted:
        return
    for index, item in _nodes(value):
        if type(item) not in wanted | {list}:
            raise TensorMismatch(
                f"input {spec.name!r}{_place(index)} is a JSON {_kind(item)}; "
                f"{spec.dtype} is expected",
                field=spec.name,
            )


def _leaf_types(value: list[Any]) -> set[type]:
    found: set[type] = set()
    level = value
    while level:
        found.update(map(type, level))
        level = list(chain.from_iterable(item for item in level if isinstance(item, list)))
    return found - {list}


def _nodes(value: list[Any]) -> Iterator[tuple[list[int], Any]]:
    """Every list and leaf below, depth first, with its place; the place is one list, reused."""
    place = [0]
    stack = [enumerate(value)]
    while stack:
        for position, item in stack[-1]:
            place[-1] = position
            yield place, item
            if isinstance(item, list):
                place.append(0)
                stack.append(enumerate(item))
                break
        else:
            stack.pop()
            place.pop()


def _first_ragged(value: list[Any]) -> str | None:
    """Where the first list is whose length differs from those before it at its depth."""
    expected: dict[int, int | None] = {}
    for place, item in _nodes(value):
        size = len(item) if isinstance(item, list) else None
        first = expected.setdefault(len(place), size)
        if size != first:
            return f"{_place(place)} has {_length(size)}, those before it {_length(first)}"
    return None


def _place(index: list[int]) -> str:
    shown = "".join(f"[{position}]" for position in index[:MAX_SHOWN_AXES])
    return shown if len(index) <= MAX_SHOWN_AXES else f"{shown}…"


def _length(size: int | None) -> str:
    return "no list" if size is None else f"{size} items"


def _dtype_words(dtype: np.dtype[Any]) -> str:
    words = {
        "f": "numbers that are fractions or beyond 64 bits",
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
