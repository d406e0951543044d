"""Weights as 8-bit floats with one scale per output channel; arithmetic in float32.

Source: P. Micikevicius et al., "FP8 formats for deep learning" (2022): E4M3 has 3 bits of fraction
and a largest value of 448, E5M2 2 bits and 57,344.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field

from compressors.anatomy import Anatomy
from compressors.bench import Bench
from compressors.onnx_weights import store_scaled, weights

FAMILY: Literal["precision"] = "precision"
GUIDE = (
    "The bytes of weight_only with 8 bits; better only where most weights of a channel are tiny."
)
HARDWARE = "any; 8-bit float arithmetic needs a GPU that has it and is not used here"
KNOBS: dict[str, tuple[Any, ...]] = {}
WORKS_ON: Literal["onnx"] = "onnx"
REQUIRES: tuple[str, ...] = ("onnx",)

_LARGEST = {"e4m3": 448.0, "e5m2": 57344.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How weights are stored.

    `format`: `e4m3` is finer, `e5m2` has more range.
    `min_elements`: smaller tensors stay float32.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    format: Literal["e4m3", "e5m2"] = "e4m3"
    min_elements: Annotated[int, Field(ge=1)] = 256


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Needs a layer with weights."""
    del config
    return "" if anatomy.layers else "it has no linear layer and no convolution"


def convert(source: Path, target: Path, config: Config, bench: Bench) -> None:
    """Write the graph with 8-bit float weights."""
    import onnx
    from onnx import TensorProto, helper

    del bench
    kinds = {"e4m3": TensorProto.FLOAT8E4M3FN, "e5m2": TensorProto.FLOAT8E5M2}
    kind = helper.tensor_dtype_to_np_dtype(kinds[config.format])
    model = onnx.load(source)
    for weight in list(weights(model, config.min_elements)):
        others = tuple(axis for axis in range(weight.values.ndim) if axis != weight.outputs)
        largest = np.abs(weight.values).max(axis=others, keepdims=True)
        scale = np.maximum(largest / _LARGEST[config.format], np.finfo(np.float32).tiny)
        store_scaled(
            model,
            weight,
            (weight.values / scale).astype(kind),
            scale.astype(np.float32).reshape(-1),
        )
    onnx.save(model, target)
