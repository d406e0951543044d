"""The model as it is, in float32: the reference that every other variant is compared with."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from compressors.anatomy import Anatomy
from compressors.bench import Bench

FAMILY: Literal["reference"] = "reference"
GUIDE = "The model as it is; every other variant is measured against it."
HARDWARE = "any"
KNOBS: dict[str, tuple[Any, ...]] = {}
WORKS_ON: Literal["onnx"] = "onnx"
REQUIRES: tuple[str, ...] = ("onnx",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Nothing to set."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Suits every model."""
    del anatomy, config
    return ""


def convert(source: Path, target: Path, config: Config, bench: Bench) -> None:
    """Copy the exported file unchanged."""
    del config, bench
    shutil.copyfile(source, target)
