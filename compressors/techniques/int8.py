"""Static post-training quantisation to int8 with ranges from calibration rows.

value ≈ scale × (q − zero_point), weights as int8 with one scale per output channel, activations as
uint8 with one scale per tensor, in the QuantizeLinear/DequantizeLinear form that every runtime
fuses. Source: B. Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference" (2018), eq. 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from compressors.anatomy import Anatomy
from compressors.bench import Bench
from compressors.export import quiet
from compressors.quantised import forget_domains, prepare
from variants.runtimes import Tensor, Tensors

FAMILY: Literal["precision"] = "precision"
GUIDE = "The first thing to try on a convolutional network; needs calibration rows."
HARDWARE = "fast with VNNI or its like"
KNOBS: dict[str, tuple[Any, ...]] = {"calibration": ("minmax", "percentile", "entropy")}
WORKS_ON: Literal["onnx"] = "onnx"
REQUIRES: tuple[str, ...] = ("onnx", "onnxruntime")
BATCH = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How activation ranges are found.

    `calibration`: `minmax` takes the extremes; `percentile` and `entropy` cut outliers off.
    `rows`: how many calibration rows are run, at most.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    calibration: Literal["minmax", "percentile", "entropy"] = "minmax"
    rows: Annotated[int, Field(ge=1)] = 512


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Suits every model."""
    del anatomy, config
    return ""


def convert(source: Path, target: Path, config: Config, bench: Bench) -> None:
    """Write the quantised graph."""
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    with quiet():
        quantize_static(
            str(prepare(source, bench)),
            str(target),
            _Rows(bench, config.rows),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=methods[config.calibration],
        )
    forget_domains(target)


class _Rows:
    """Calibration batches in the form of ONNX Runtime's `CalibrationDataReader`."""

    def __init__(self, bench: Bench, rows: int) -> None:
        self._rows: Tensors = bench.data.calibration
        self._count = min(rows, *(len(tensor) for tensor in self._rows.values()))
        self._progress = bench.progress
        self._at = 0

    def get_next(self) -> Mapping[str, Tensor] | None:
        """The next batch, or None at the end."""
        if self._at >= self._count:
            return None
        stop = min(self._at + BATCH, self._count)
        batch = {name: tensor[self._at : stop] for name, tensor in self._rows.items()}
        self._at = stop
        self._progress(stop / self._count)
        return batch

    def __iter__(self) -> Any:
        return iter(self.get_next, None)
