"""Weights stored as bfloat16 and cast back in the graph: half the bytes, float32 arithmetic.

bfloat16 is the upper half of float32: its whole range with 7 bits of fraction. Source: ONNX IR
specification, data type BFLOAT16.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from compressors.anatomy import Anatomy
from compressors.bench import Bench
from compressors.onnx_weights import store_cast

FAMILY: Literal["precision"] = "precision"
GUIDE = "Half the file where weights exceed float16's range; else fp16, three bits more exact."
HARDWARE = "any"
KNOBS: dict[str, tuple[Any, ...]] = {}
WORKS_ON: Literal["onnx"] = "onnx"
REQUIRES: tuple[str, ...] = ("onnx",)


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
    """Store float32 initialisers as bfloat16 and cast them where they are used."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    del bench
    bfloat16 = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    model = onnx.load(source)
    for tensor in list(model.graph.initializer):
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            if values.size >= config.min_elements:
                store_cast(model, tensor.name, values.astype(bfloat16))
    onnx.save(model, target)
