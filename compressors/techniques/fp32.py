"""The model as it is, in float32: the reference that every other variant is compared with."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict

from compressors.bench import Bench

WORKS_ON: Literal["onnx"] = "onnx"
REQUIRES: tuple[str, ...] = ("onnx",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Nothing to set."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


def convert(source: Path, target: Path, config: Config, bench: Bench) -> None:
    """Copy the exported file unchanged."""
    del config, bench
    shutil.copyfile(source, target)
