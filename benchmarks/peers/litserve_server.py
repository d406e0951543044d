"""LitServe: one API server, one worker.  python litserve_server.py PORT MODEL.onnx"""

import sys

import litserve
import numpy as np
import onnxruntime


class Model(litserve.LitAPI):
    """The session in its worker process."""

    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            sys.argv[2], options, providers=["CPUExecutionProvider"]
        )

    def decode_request(self, request):  # the name `request` is required
        return np.array(request["inputs"], np.float32)

    def predict(self, x):
        return self.session.run(None, {"x": x})[0]

    def encode_response(self, output):
        return {"outputs": {"y": output.tolist()}}


if __name__ == "__main__":
    server = litserve.LitServer(Model(api_path="/infer"), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
