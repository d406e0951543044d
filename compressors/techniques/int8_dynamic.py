"""int8 weights, and activations whose ranges are found anew for every batch.

value ≈ scale × (q − zero_point); weights have one scale per output channel, activations one per
tensor and call (ONNX operator DynamicQuantizeLinear), so no calibration rows are needed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from compressors.anatomy import Anatomy
from compressors.bench import Bench
from compressors.export import quiet
from compressors.quantised import forget_domains, prepare

FAMILY: Literal["precision"] = "precision"
GUIDE = "Transformers and wide linear layers without calibration rows; leaves convolutions alone."
HARDWARE = "fast with VNNI or its like"
KNOBS: dict[str, tuple[Any, ...]] = {}
WORKS_ON: Literal["onnx"] = "onnx"
REQUIRES: tuple[str, ...] = ("onnx", "onnxruntime")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """`per_channel`: one scale per output channel rather than one per weight."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    per_channel: bool = True


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Needs a linear layer."""
    del config
    return "" if anatomy.linear else "it has no linear layer"


def convert(source: Path, target: Path, config: Config, bench: Bench) -> None:
    """Write the graph with integer linear layers and tables, by ONNX Runtime's quantiser."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        quantize_dynamic(
            str(prepare(source, bench)),
            str(target),
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            per_channel=config.per_channel,
            weight_type=QuantType.QInt8,
        )
    forget_domains(target)
