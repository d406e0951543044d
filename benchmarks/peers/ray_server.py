"""Ray Serve: one replica behind its proxy.  python ray_server.py PORT MODEL.onnx"""

import os
import sys
import time
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import numpy as np
import onnxruntime
import ray
from ray import serve


@serve.deployment(num_replicas=1, max_ongoing_requests=128)
class Model:
    """The session in its replica."""

    def __init__(self, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )

    async def __call__(self, request):
        if request.headers["content-type"] == "application/octet-stream":
            shape = [-1, *self.session.get_inputs()[0].shape[1:]]
            x = np.frombuffer(await request.body(), np.float32).reshape(shape)
        else:
            x = np.array((await request.json())["inputs"], np.float32)
        return {"outputs": {"y": self.session.run(None, {"x": x})[0].tolist()}}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Model.bind(str(Path(sys.argv[2]).resolve())), route_prefix="/infer")
    while True:
        time.sleep(1)
