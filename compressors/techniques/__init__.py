"""Compression techniques; the file name is the registration.

Each file offers `WORKS_ON`, `REQUIRES` and `Config` (a frozen dataclass, whose fields are the keys
of a step in the plan), and the functions of its kind:

- `"torch"`: `restructure` changes the module's form, `refine` trains the new form. Restructuring
  is a pure function of weights and configuration, so a later build repeats it and then loads the
  stored weights instead of training again.
- `"onnx"`: `convert` writes a new ONNX file.

A recipe runs its torch steps, exports, then runs its ONNX steps. Heavy imports stay inside the
functions, so checking a plan loads no library.
"""

import importlib
import importlib.util
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from compressors.bench import Bench
from variants.errors import Invalid

if TYPE_CHECKING:
    from torch import nn


class TorchTechnique(Protocol):
    """A technique that works on the torch module, before export."""

    WORKS_ON: Literal["torch"]
    REQUIRES: tuple[str, ...]
    Config: type

    def restructure(self, model: "nn.Module", config: Any, bench: Bench) -> "nn.Module":
        """The module in its new form; the one given stays as it was."""
        ...

    def refine(self, model: "nn.Module", parent: "nn.Module", config: Any, bench: Bench) -> None:
        """Train the new form in place; `parent` is the module that it was made from."""
        ...


class OnnxTechnique(Protocol):
    """A technique that works on the exported file."""

    WORKS_ON: Literal["onnx"]
    REQUIRES: tuple[str, ...]
    Config: type

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


def missing(requires: tuple[str, ...]) -> tuple[str, ...]:
    """The imports in `requires` that are not installed here."""
    return tuple(name for name in requires if importlib.util.find_spec(name) is None)
