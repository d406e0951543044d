"""A TOML file read into a pydantic model, with errors that name file, line and nearest key."""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from variants.errors import Invalid

Model = TypeVar("Model", bound=BaseModel)
_HEADER = re.compile(r"^\s*\[\[?\s*([^\]]+?)\s*\]\]?")
_KEY = re.compile(r"^\s*([A-Za-z0-9_\-\"'.]+)\s*=")


def load(path: Path, model: type[Model], context: dict[str, Any] | None = None) -> Model:
    """The file's content as `model`. Raises `Invalid` with one line that says what to change.

    `context` is handed to the model's validators.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except FileNotFoundError:
        raise Invalid(f"{path}: no such file") from None
    except RecursionError:
        raise Invalid(f"{path}: lists or tables are nested too deep") from None
    except (ValueError, OSError) as error:  # also a number of thousands of digits
        raise Invalid(f"{path}: {error}") from error
    try:
        return model.model_validate(data, context=context)
    except ValidationError as error:
        raise Invalid(describe(error, path, text, model), field=_dotted(error)) from error


def describe(error: ValidationError, path: Path, text: str, model: type[BaseModel]) -> str:
    """The first problem in one line: `plan.toml:12: build.epoch: unknown key; nearest: epochs`."""
    first = error.errors()[0]
    loc = tuple(part for part in first["loc"] if not str(part).startswith("function-"))
    where = f"{path}:{line_of(text, loc)}"
    name = ".".join(str(part) for part in loc)
    if first["type"] == "extra_forbidden":
        known = _keys_beside(model, loc)
        near = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.0)
        hint = f"; nearest valid key: {near[0]!r}" if near else ""
        return f"{where}: {name}: unknown key{hint}"
    message = first["msg"].removeprefix("Value error, ")
    seen = "" if first["type"] in ("missing", "value_error") else f" (got {first['input']!r})"
    return f"{where}: {name}: {message}{seen}" if name else f"{where}: {message}{seen}"


def line_of(text: str, loc: tuple[int | str, ...]) -> int:
    """The line (from 1) that holds the key at `loc`, or that of the nearest enclosing table."""
    best_line, best_depth = 1, 0
    counts: dict[tuple[int | str, ...], int] = {}
    table: tuple[int | str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = ()
            for part in header[1].split("."):
                table = (*_element(table, counts), part.strip(" \"'"))
            if line.lstrip().startswith("[["):
                counts[table] = counts.get(table, -1) + 1
                table = _element(table, counts)
            place = table
        elif key := _KEY.match(line):
            place = (*table, *(part.strip(" \"'") for part in key[1].split(".")))
        else:
            continue
        if place == loc[: len(place)] and len(place) > best_depth:
            best_line, best_depth = number, len(place)
    return best_line


def _element(
    table: tuple[int | str, ...], counts: dict[tuple[int | str, ...], int]
) -> tuple[int | str, ...]:
    """The latest element of an array of tables; any other table is itself."""
    return (*table, counts[table]) if table in counts else table


def _dotted(error: ValidationError) -> str:
    return ".".join(str(part) for part in error.errors()[0]["loc"])


def _keys_beside(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the fields that are valid where the last part of `loc` stands."""
    schema = model.model_json_schema()
    here: Any = schema
    for part in loc[:-1]:
        here = _resolve(schema, here)
        if part in (forms := here.get("discriminator", {}).get("mapping", {})):
            here = {"$ref": forms[part]}
        elif isinstance(part, int):
            here = here.get("items", {})
        else:
            here = here.get("properties", {}).get(part, {})
    return list(_resolve(schema, here).get("properties", {}))


def _resolve(schema: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
    """Follow a `$ref`, or the first object alternative of an `anyOf`."""
    for option in here.get("anyOf", ()):
        if option.keys() & {"$ref", "properties", "discriminator"}:
            here = option
            break
    if "$ref" in here:
        found: dict[str, Any] = schema["$defs"][here["$ref"].rsplit("/", 1)[1]]
        return found
    return here
