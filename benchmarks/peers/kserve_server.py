"""KServe's Python SDK, gRPC off.  python kserve_server.py PORT MODEL.onnx"""

import sys

import numpy as np
import onnxruntime
import uvicorn
from kserve import InferOutput, InferResponse, Model, ModelServer


class Peer(Model):
    """The session in the server's process."""

    def __init__(self):
        super().__init__("peer")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            sys.argv[2], options, providers=["CPUExecutionProvider"]
        )
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        x = payload.inputs[0].as_numpy().astype(np.float32, copy=False)
        y = self.session.run(None, {"x": x})[0]
        output = InferOutput("y", list(y.shape), "FP32")
        output.set_data_from_numpy(y, binary_data=bool(payload.from_grpc))
        return InferResponse(
            response_id=payload.id or "-", model_name="peer", infer_outputs=[output]
        )


if __name__ == "__main__":
    before = uvicorn.Config.__init__

    def on_loopback(self, *args, **kwargs):
        """The SDK binds to every address, and has no option for it."""
        before(self, *args, **{**kwargs, "host": "127.0.0.1", "log_level": "warning"})

    uvicorn.Config.__init__ = on_loopback
    ModelServer(
        http_port=int(sys.argv[1]), enable_grpc=False, workers=1, enable_docs_url=False
    ).start([Peer()])
