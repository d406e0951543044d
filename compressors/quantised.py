"""Static int8 by the libraries that know how: ONNX Runtime's quantiser, and NNCF's.

Both write QuantizeLinear/DequantizeLinear pairs, which every runtime fuses, with uint8 activations
and symmetric int8 weights.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from compressors.bench import Bench
from compressors.export import quiet
from variants.runtimes import Tensor, Tensors

BATCH = 32
BINS = 512
Calibration = Literal["minmax", "percentile", "entropy"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranges:
    """How activation ranges are found, as the technique `int8` configures it."""

    calibration: Calibration
    percentile: float
    rows: int
    per_channel: bool
    smooth_quant: float | None


def prepare(source: Path, bench: Bench) -> Path:
    """A copy of the graph with shapes filled in and what can be fused fused, for a quantiser."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = bench.scratch / "prepared.onnx"
    with quiet():
        # Symbolic shapes need sympy, which comes with torch; ONNX's own inference does otherwise.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=not find_spec("sympy"))
    return prepared


def layers(path: Path) -> tuple[str, ...]:
    """The nodes of a prepared graph that multiply by weights, by name."""
    import onnx

    graph = onnx.load(path).graph
    stored = {tensor.name for tensor in graph.initializer}
    return tuple(
        node.name
        for node in graph.node
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and node.input[1] in stored
    )


def by_onnxruntime(
    prepared: Path,
    target: Path,
    ranges: Ranges,
    bench: Bench,
    *,
    only: Sequence[str] = (),
    keep_float: Sequence[str] = (),
) -> None:
    """Write the quantised graph; `only` and `keep_float` name nodes.

    Ranges are kept in the bench's scratch folder, so the same graph is calibrated once.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    found = prepared.with_suffix(".ranges.json")
    if not found.exists():
        _calibrate(prepared, found, ranges, bench)
    with quiet():
        quantize_static(
            str(prepared),
            str(target),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=ranges.per_channel,
            nodes_to_quantize=list(only),
            nodes_to_exclude=list(keep_float),
            calibrate_method=_method(ranges.calibration),
            calibration_cache_path=found,
        )
    forget_domains(target)


def _calibrate(prepared: Path, found: Path, ranges: Ranges, bench: Bench) -> None:
    """Write the ranges of all activations. Rows go in a few at a time, for all outputs are kept."""
    from onnxruntime.quantization import create_calibrator
    from onnxruntime.quantization.calibrate import save_tensors_data

    def calibrator(calibration: Calibration) -> Any:
        return create_calibrator(
            prepared,
            augmented_model_path=str(prepared.with_suffix(".calibration.onnx")),
            calibrate_method=_method(calibration),
            extra_options={"symmetric": False, "percentile": ranges.percentile},
        )

    with quiet():
        chosen = calibrator(ranges.calibration)
        if ranges.calibration == "entropy":
            extremes = calibrator("minmax")
            for batch in _batches(bench, ranges.rows, BATCH):
                extremes.collect_data(_Once(batch))
            chosen.collector = _histograms(extremes.compute_data())
        for batch in _batches(bench, ranges.rows, BATCH):
            chosen.collect_data(_Once(batch))
        save_tensors_data(chosen.compute_data(), found)


def _histograms(extremes: Any) -> Any:
    """Empty histograms that already span each tensor's extremes.

    ONNX Runtime adds bins where a later row is larger, and its search for the best cut takes the
    square of the bins. Its own 128 bins for 128 steps leave nothing to cut. Source: S. Migacz,
    "8-bit inference with TensorRT" (2017).
    """
    import numpy as np
    from onnxruntime.quantization.calibrate import HistogramCollector

    histograms = HistogramCollector(
        method="entropy",
        symmetric=False,
        num_bins=BINS,
        num_quantized_bins=128,
        percentile=100.0,
        scenario="same",
    )
    for name, found in extremes.items():
        span = max(float(np.max(np.abs(side))) for side in found.range_value)
        histograms.collect({name: [np.array([-span, span], np.float32)]})
    return histograms


def _method(calibration: Calibration) -> Any:
    from onnxruntime.quantization import CalibrationMethod

    return {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }[calibration]


def by_nncf(
    prepared: Path, target: Path, ranges: Ranges, bench: Bench, *, keep_float: Sequence[str] = ()
) -> None:
    """Write the graph quantised by NNCF; `smooth_quant` treats it as a transformer.

    Source of SmoothQuant: G. Xiao et al., "SmoothQuant: accurate and efficient post-training
    quantization for large language models" (2023), eq. 4.
    """
    os.environ.setdefault("NNCF_CI", "1")  # its telemetry stays off
    with quiet():
        import nncf
        import onnx
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        smooth = ranges.smooth_quant
        advanced = nncf.AdvancedQuantizationParameters(
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(
                convolution=-1, matmul=-1 if smooth is None else smooth
            )
        )
        if ranges.calibration == "percentile":
            advanced.activations_range_estimator_params = RangeEstimatorParametersSet.MEAN_QUANTILE
        rows = list(_batches(bench, ranges.rows, 1))
        quantised = nncf.quantize(
            onnx.load(prepared),
            nncf.Dataset(rows),
            subset_size=len(rows),
            model_type=None if smooth is None else nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(names=list(keep_float)) if keep_float else None,
            advanced_parameters=advanced,
        )
    onnx.save(quantised, target)
    forget_domains(target)


def forget_domains(path: Path) -> None:
    """Drop the operator domains that a quantiser declares and no node uses."""
    import onnx

    model = onnx.load(path)
    used = {node.domain for node in model.graph.node} | {""}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    onnx.save(model, path)


class _Once:
    """One batch in the form of ONNX Runtime's `CalibrationDataReader`."""

    def __init__(self, batch: Tensors) -> None:
        self._batch: Tensors | None = batch

    def get_next(self) -> Tensors | None:
        """The batch, then None."""
        batch, self._batch = self._batch, None
        return batch


def _batches(bench: Bench, rows: int, size: int) -> Iterator[dict[str, Tensor]]:
    """The first calibration rows, `size` at a time."""
    calibration = bench.data.calibration
    count = min(rows, *(len(tensor) for tensor in calibration.values()))
    for start in range(0, count, size):
        stop = min(start + size, count)
        yield {name: tensor[start:stop] for name, tensor in calibration.items()}
        bench.progress(stop / count)
