"""BentoML: one worker, numpy in and out.  python bentoml_server.py PORT MODEL.onnx"""

import os
import sys
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1)
class Model:
    """The session in the server's worker."""

    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"]
        )

    @bentoml.api
    def infer(self, inputs: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"x": inputs.astype(np.float32)})[0]


if __name__ == "__main__":
    os.environ["PEER_MODEL"] = str(Path(sys.argv[2]).resolve())
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    command = [sys.executable, "-m", "bentoml", "serve", "bentoml_server:Model"]
    command += ["--host", "127.0.0.1", "--port", sys.argv[1]]
    command += ["--working-dir", str(Path(__file__).parent)]
    os.execv(sys.executable, command)  # noqa: S606
