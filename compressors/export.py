"""A torch module as an ONNX file with a dynamic batch axis and the model's tensor names."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from compressors import onnx_weights, simplify
from variants.spec import ModelSpec

if TYPE_CHECKING:
    import onnx
    from torch import nn

OPSET = 20
REQUIRES = ("torch", "onnx", "onnxscript")
_LIMIT = 1024
"""Upper bound of the exported batch axis; `ModelSpec.max_batch` may not exceed it."""


def export(model: "nn.Module", spec: ModelSpec, path: Path) -> None:
    """Write `model` to `path`. The example batch is 2, because 1 would be specialised away."""
    import onnx
    import torch

    model.eval()
    example = tuple(
        torch.zeros((2, *tensor.shape), dtype=getattr(torch, tensor.dtype))
        for tensor in spec.inputs
    )
    batch = torch.export.Dim("batch", min=1, max=_LIMIT)
    with quiet():
        torch.onnx.export(
            model,
            example,
            path,
            dynamo=True,
            dynamic_shapes=tuple({0: batch} for _ in spec.inputs),
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            external_data=False,
            opset_version=OPSET,
            verbose=False,
        )
    written = onnx.load(path)
    _forget_origins(written)
    simplify.pool_last(written)
    onnx.save(onnx_weights.narrow(written), path)


def _forget_origins(model: "onnx.ModelProto") -> None:
    """Drop the source lines and paths that the exporter notes beside every node: a fifth of a
    small file, and nobody's business who downloads it.
    """
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's and the quantiser's notices off the console; errors still raise."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
