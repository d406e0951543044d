"""Triton through PyTriton, dynamic batcher without delay: python pytriton_server.py PORT MODEL

Its wheel holds Triton's Python backend alone, so ONNX Runtime runs in Python here too.
"""

import sys

import numpy as np
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

port = int(sys.argv[1])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])


@batch
def infer(x):
    """One batch."""
    return {"y": session.run(None, {"x": x})[0]}


if __name__ == "__main__":
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=port,
        grpc_address="127.0.0.1",
        grpc_port=port + 1,
        metrics_port=port + 2,
        allow_metrics=False,
    )
    with Triton(config=config) as triton:
        shape, out = session.get_inputs()[0].shape[1:], session.get_outputs()[0].shape[1:]
        triton.bind(
            model_name="peer",
            infer_func=infer,
            inputs=[Tensor(name="x", dtype=np.float32, shape=tuple(shape))],
            outputs=[Tensor(name="y", dtype=np.float32, shape=tuple(out))],
            config=ModelConfig(
                max_batch_size=32, batcher=DynamicBatcher(max_queue_delay_microseconds=0)
            ),
        )
        triton.serve()
