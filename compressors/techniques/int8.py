"""Static post-training quantisation to int8 with ranges from calibration rows.

value ≈ scale × (q − zero_point), weights as int8 with one scale per output channel, activations as
uint8 with one scale per tensor, in the QuantizeLinear/DequantizeLinear form that every runtime
fuses. Source: B. Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference" (2018), eq. 1.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from compressors import quantised, sensitivity
from compressors.anatomy import Anatomy
from compressors.bench import Bench
from compressors.quantised import Calibration, Ranges

FAMILY: Literal["precision"] = "precision"
GUIDE = (
    "The first thing to try on a convolutional network, and with smooth_quant on a transformer; "
    "needs calibration rows."
)
HARDWARE = "fast with VNNI or its like"
KNOBS: dict[str, tuple[Any, ...]] = {
    "calibration": ("minmax", "percentile"),
    "keep_float": (0, 1, 2),
}
WORKS_ON: Literal["onnx"] = "onnx"
REQUIRES: tuple[str, ...] = ("onnx", "onnxruntime")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How ranges are found and what stays float32.

    `calibration`: `minmax` takes the extremes; `percentile` and `entropy`, slower, cut outliers.
    `percentile`: the share of values inside the range, in percent, for ONNX Runtime's quantiser.
    `rows`: how many calibration rows are run, at most.
    `per_channel`: one scale per output channel of a weight rather than one per weight.
    `quantizer`: whose; `nncf` needs that package and knows `minmax` and `percentile`.
    `smooth_quant`: the share, from 0 to 1, of the outliers of a transformer's activations that
    moves into its weights (the paper's α); left out, nothing moves. Needs `nncf`.
    `keep_float`: this many layers, the ones that change the answers most when they alone are
    quantised, stay float32; measuring that takes about a second per layer.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    calibration: Calibration = "minmax"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.9
    rows: Annotated[int, Field(ge=1)] = 512
    per_channel: bool = True
    quantizer: Literal["onnxruntime", "nncf"] = "onnxruntime"
    smooth_quant: Annotated[float, Field(ge=0, le=1)] | None = None
    keep_float: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        if self.quantizer == "nncf" and (self.calibration == "entropy" or not self.per_channel):
            raise ValueError("quantizer 'nncf' has no entropy ranges and is always per channel")
        if self.smooth_quant is not None and self.quantizer != "nncf":
            raise ValueError("smooth_quant needs quantizer = 'nncf'")

    @property
    def requires(self) -> tuple[str, ...]:
        """Imports that this configuration needs besides the technique's own."""
        return ("nncf",) if self.quantizer == "nncf" else ()


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Suits every model that has as many layers as are to stay float32, and one more."""
    if config.keep_float >= len(anatomy.layers) > 0:
        return f"keep_float = {config.keep_float} leaves none of {len(anatomy.layers)} layers"
    return ""


def convert(source: Path, target: Path, config: Config, bench: Bench) -> None:
    """Write the quantised graph."""
    prepared = quantised.prepare(source, bench)
    prepared.with_suffix(".ranges.json").unlink(missing_ok=True)
    ranges = Ranges(
        calibration=config.calibration,
        percentile=config.percentile,
        rows=config.rows,
        per_channel=config.per_channel,
        smooth_quant=config.smooth_quant,
    )
    kept = _most_sensitive(prepared, config.keep_float, ranges, bench) if config.keep_float else ()
    quantise = {"onnxruntime": quantised.by_onnxruntime, "nncf": quantised.by_nncf}
    quantise[config.quantizer](prepared, target, ranges, bench, keep_float=kept)


def _most_sensitive(prepared: Path, count: int, ranges: Ranges, bench: Bench) -> tuple[str, ...]:
    """The names of the `count` layers whose quantisation alone changes the answers most."""

    def quantise_one(layer: str, path: Path) -> None:
        quantised.by_onnxruntime(prepared, path, ranges, bench, only=[layer])

    found = sensitivity.measure(prepared, quantised.layers(prepared), quantise_one, bench)
    return tuple(found)[:count]
