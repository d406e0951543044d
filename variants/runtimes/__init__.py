"""Runtimes that can execute an artifact; the file name is the registration.

Each file offers three names: `REQUIRES` (the import that must be installed, or None),
`version()`, and `load(path, threads)` that returns a `Session`. Heavy imports stay inside the
functions, so listing the runtimes loads none of them.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from variants.errors import Invalid

Tensor = NDArray[np.generic]
Tensors = Mapping[str, Tensor]


class Session(Protocol):
    """A loaded artifact, used by one thread at a time."""

    def run(self, inputs: Tensors) -> dict[str, Tensor]:
        """Outputs by name for inputs by name; every tensor has a leading batch axis."""
        ...


class Runtime(Protocol):
    """What a file in this folder offers."""

    REQUIRES: str | None

    def version(self) -> str:
        """Version of the library that runs the artifact."""
        ...

    def load(self, path: Path, threads: int) -> Session:
        """Open the artifact for `threads` compute threads."""
        ...


def names() -> tuple[str, ...]:
    """Every runtime that Gearshift knows, installed or not."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find(name: str) -> Runtime:
    """The runtime of this name. Raises `Invalid` where there is none."""
    if name not in names():
        raise Invalid(f"unknown runtime {name!r}; known: {', '.join(names())}", field="runtime")
    return cast(Runtime, importlib.import_module(f"{__name__}.{name}"))


def installed() -> tuple[str, ...]:
    """The runtimes for real artifacts whose library is installed here."""
    found = []
    for name in names():
        requires = find(name).REQUIRES
        if requires is not None and importlib.util.find_spec(requires) is not None:
            found.append(name)
    return tuple(found)
