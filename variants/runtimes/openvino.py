"""OpenVINO on the CPU, reading the same ONNX file.

Precision is fixed to float32 where the graph says float32 (the default hint on bf16 processors is
slower and less exact), pinning is off so that several one-thread processes do not share a core.
Its CPU plugin computes float64 in float32 and int64 in int32 without a word, so tensors of
float64 are refused when the file is loaded, and integers beyond int32 when they are sent.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from variants.errors import Invalid
from variants.runtimes import Session, Tensor, Tensors

REQUIRES = "openvino"


def version() -> str:
    """Version of the installed library."""
    import openvino

    return str(openvino.__version__)


def load(path: Path, threads: int) -> Session:
    """Open an ONNX file with `threads` threads in one stream."""
    os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")
    import openvino

    core = openvino.Core()
    config = {
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": "NO",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
    }
    # The front end is chosen by the file's ending; blobs have none, so it is read as bytes.
    model = core.read_model(model=path.read_bytes())
    for port in (*model.inputs, *model.outputs):
        if port.get_element_type() == openvino.Type.f64:
            raise Invalid(f"OpenVINO would compute {port.get_any_name()!r} in float32, not float64")
    return _Session(core.compile_model(model, "CPU", config))


class _Session:
    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._names = [output.get_any_name() for output in compiled.outputs]

    def run(self, inputs: Tensors) -> dict[str, Tensor]:
        for name, tensor in inputs.items():
            if tensor.dtype == np.int64 and not np.array_equal(tensor, tensor.astype(np.int32)):
                raise Invalid(f"input {name!r} holds integers beyond int32", field=name)
        results = self._request.infer(dict(inputs), share_inputs=True)
        # The request owns its output buffers, so they are copied before the next run.
        return {name: np.array(results[name]) for name in self._names}
