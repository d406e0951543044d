"""MLServer: the model in the server's process.  python mlserver_server.py PORT MODEL.onnx"""

import asyncio
import sys

import numpy as np
import onnxruntime
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Model(MLModel):
    """The session in the server's process."""

    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            sys.argv[2], options, providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32, copy=False)
        y = self.session.run(None, {"x": x})[0]
        return InferenceResponse(
            id=payload.id, model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)]
        )


async def main():
    settings = Settings(
        host="127.0.0.1",
        http_port=int(sys.argv[1]),
        grpc_port=int(sys.argv[1]) + 1,
        metrics_port=int(sys.argv[1]) + 2,
        parallel_workers=0,
        debug=False,
    )
    await MLServer(settings).start([ModelSettings(name="peer", implementation=Model)])


if __name__ == "__main__":
    asyncio.run(main())
