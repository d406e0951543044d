"""Weights stored as float16 and cast back in the graph: half the bytes, float32 arithmetic.

Storage only, because float16 arithmetic is slower than float32 on most processors. float16 has 10
bits of fraction and a largest finite value of 65,504 (IEEE 754-2008, binary16).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field

from compressors.anatomy import Anatomy
from compressors.bench import Bench
from compressors.onnx_weights import store_cast
from variants.errors import Invalid

FAMILY: Literal["precision"] = "precision"
GUIDE = (
    "Half the file and the memory at rest; speed only on hardware with half-precision arithmetic."
)
HARDWARE = "any"
KNOBS: dict[str, tuple[Any, ...]] = {}
WORKS_ON: Literal["onnx"] = "onnx"
REQUIRES: tuple[str, ...] = ("onnx",)

LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """`min_elements`: smaller tensors stay float32, where a cast costs more than it saves."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    min_elements: Annotated[int, Field(ge=1)] = 256


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Suits every model."""
    del anatomy, config
    return ""


def convert(source: Path, target: Path, config: Config, bench: Bench) -> None:
    """Store float32 initialisers as float16 and cast them where they are used.

    Raises `Invalid` where a weight does not fit float16's range.
    """
    import onnx
    from onnx import TensorProto, numpy_helper

    del bench
    model = onnx.load(source)
    for tensor in list(model.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < config.min_elements:
            continue
        largest = float(np.abs(values).max())
        if largest > LARGEST:
            raise Invalid(f"tensor {tensor.name!r} holds {largest:g}, beyond float16's 65504")
        store_cast(model, tensor.name, values.astype(np.float16))
    onnx.save(model, target)
