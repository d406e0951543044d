"""Compression techniques; the file name is the registration.

Each file offers

- `FAMILY`, `GUIDE` (one line: when to use it), `HARDWARE` (where it pays) and `REQUIRES` (imports);
- `KNOBS`: what a search may try for keys of the configuration, training apart;
- `Config`, a frozen dataclass whose fields are the keys of a step in the plan; where some of its
  values need more imports, it has a property `requires` that names them;
- `unsuitable(anatomy, config)`: why it cannot work on a model of this anatomy, or nothing;
- where the plan alone can tell, `lacking(config, promised)`: what keeps this model from it;
- `WORKS_ON`, and the functions of its kind:

`"torch"`: `compress` makes a smaller, trained module, and `rebuild` the same form again, whose
weights do not matter. The names and shapes of the weights that were stored tell the form, so a
later build goes on from them instead of training again.

`"onnx"`: `convert` writes a new ONNX file.

A recipe runs its torch steps, exports, then runs its ONNX steps. Heavy imports stay inside the
functions, so checking a plan loads no library.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from pydantic import TypeAdapter

from compressors.anatomy import Anatomy
from compressors.bench import Bench
from variants.errors import Invalid
from variants.spec import TensorSpec

if TYPE_CHECKING:
    from torch import nn

Family = Literal[
    "reference", "precision", "pruning", "tensorisation", "distillation", "architecture"
]
Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each stored parameter and buffer by its name in the module."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Promised:
    """What a plan tells of its model before any code of the model file runs.

    `offered` are the names at the top level of that file.
    """

    offered: frozenset[str]
    inputs: tuple[TensorSpec, ...]


class Described(Protocol):
    """What every technique tells about itself."""

    FAMILY: Family
    GUIDE: str
    HARDWARE: str
    KNOBS: dict[str, tuple[Any, ...]]
    REQUIRES: tuple[str, ...]
    Config: type

    def unsuitable(self, anatomy: Anatomy, config: Any) -> str:
        """Why a model of this anatomy gains nothing, in one sentence; empty where it may."""
        ...


class TorchTechnique(Described, Protocol):
    """A technique that works on the torch module, before export. `Config.epochs` is its training:
    all passes over the training rows together.
    """

    WORKS_ON: Literal["torch"]

    def compress(self, model: "nn.Module", config: Any, bench: Bench) -> "nn.Module":
        """The smaller module, trained; the one given stays as it was."""
        ...

    def rebuild(self, model: "nn.Module", config: Any, shapes: Shapes, bench: Bench) -> "nn.Module":
        """A module of the form that `compress` gave, for weights of these shapes."""
        ...


class OnnxTechnique(Described, Protocol):
    """A technique that works on the exported file."""

    WORKS_ON: Literal["onnx"]

    def convert(self, source: Path, target: Path, config: Any, bench: Bench) -> None:
        """Write the compressed form of `source` to `target`."""
        ...


Technique = TorchTechnique | OnnxTechnique


def names() -> tuple[str, ...]:
    """Every technique that Gearshift knows."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find(name: str) -> Technique:
    """The technique of this name. Raises `Invalid` where there is none."""
    if name not in names():
        raise Invalid(f"unknown technique {name!r}; known: {', '.join(names())}", field="technique")
    return cast(Technique, importlib.import_module(f"{__name__}.{name}"))


def lacking(technique: Technique, config: Any, promised: Promised) -> str:
    """What keeps the plan's model from this technique; empty where nothing is known to."""
    check = getattr(technique, "lacking", None)
    return str(check(config, promised)) if check is not None else ""


def requires(technique: Technique, config: object) -> tuple[str, ...]:
    """The imports that the technique needs for this configuration."""
    return technique.REQUIRES + tuple(getattr(config, "requires", ()))


def missing(requires: tuple[str, ...]) -> tuple[str, ...]:
    """The imports in `requires` that are not installed here."""
    return tuple(name for name in requires if importlib.util.find_spec(name) is None)


def describe(name: str, technique: Technique) -> dict[str, Any]:
    """The technique in JSON: `configuration` is a JSON schema, `missing` what to install first."""
    return {
        "name": name,
        "family": technique.FAMILY,
        "works_on": technique.WORKS_ON,
        "guide": technique.GUIDE,
        "libraries": list(technique.REQUIRES),
        "missing": list(missing(technique.REQUIRES)),
        "hardware": technique.HARDWARE,
        "configuration": TypeAdapter(technique.Config).json_schema(),
    }
