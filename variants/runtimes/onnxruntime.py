"""ONNX Runtime on the CPU. Source of the settings: its "Thread management" documentation."""

from pathlib import Path
from typing import Any

from variants.runtimes import Session, Tensor, Tensors

REQUIRES = "onnxruntime"


def version() -> str:
    """Version of the installed library."""
    import onnxruntime

    return str(onnxruntime.__version__)


def load(path: Path, threads: int) -> Session:
    """Open an ONNX file with `threads` intra-operator threads and no spinning."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return _Session(onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))


class _Session:
    def __init__(self, session: Any) -> None:
        self._session = session
        self._names = [output.name for output in session.get_outputs()]

    def run(self, inputs: Tensors) -> dict[str, Tensor]:
        return dict(zip(self._names, self._session.run(None, dict(inputs)), strict=True))
