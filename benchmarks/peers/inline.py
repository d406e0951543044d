"""The reference: bare ASGI on uvicorn, JSON by orjson, ONNX Runtime in the same process.

python inline.py PORT MODEL.onnx

Takes `{"inputs": [[…]]}` or, as `application/octet-stream`, the raw tensor, and answers
`{"outputs": {"y": [[…]]}}`. No validation, keys, limits, metrics or logs.
"""

import gc
import sys

import numpy as np
import onnxruntime
import orjson
import uvicorn

port, path = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
shape = (-1, *session.get_inputs()[0].shape[1:])
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json")],
}


async def app(scope, receive, send):
    """One request."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    if (b"content-type", b"application/octet-stream") in scope["headers"]:
        x = np.frombuffer(body, np.float32).reshape(shape)
    else:
        x = np.array(orjson.loads(body)["inputs"], np.float32)
    (y,) = session.run(None, {"x": x})
    reply = orjson.dumps({"outputs": {"y": y}}, option=orjson.OPT_SERIALIZE_NUMPY)
    length = (b"content-length", str(len(reply)).encode())
    await send({**START, "headers": [*START["headers"], length]})
    await send({"type": "http.response.body", "body": reply})


if __name__ == "__main__":
    session.run(None, {"x": np.zeros([1, *shape[1:]], np.float32)})
    gc.collect()
    gc.freeze()
    uvicorn.run(
        app,
        port=int(port),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
