"""How much the answers change when one layer alone is changed."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from compressors.bench import Bench
from variants import runtimes
from variants.runtimes import Tensors

METRIC = "relative_output_error"
ROWS = 256


def measure(
    source: Path,
    layers: Sequence[str],
    change: Callable[[str, Path], None],
    bench: Bench,
) -> dict[str, float]:
    """For each layer ‖g(x) − f(x)‖² ÷ ‖f(x)‖², where g has that layer changed; worst first.

    `change` writes the file with one layer changed. x are the first selection rows, f is the first
    output. Each value is noted on the bench.
    """
    rows = {name: tensor[:ROWS] for name, tensor in bench.data.selection.inputs.items()}
    whole = _answers(source, rows)
    target = bench.scratch / "one-layer.onnx"
    found = {}
    for number, layer in enumerate(layers):
        change(layer, target)
        found[layer] = float(((_answers(target, rows) - whole) ** 2).sum() / (whole**2).sum())
        bench.note_sensitivity(layer, METRIC, found[layer])
        bench.progress((number + 1) / len(layers))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _answers(path: Path, rows: Tensors) -> np.ndarray:
    session = runtimes.find("onnxruntime").load(path, 1)
    return np.asarray(next(iter(session.run(rows).values())), np.float64)
