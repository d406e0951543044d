"""What is compared, and how each server wants to be asked."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.load import post
from benchmarks.models import Model, cnn, tiny

Payload = Literal["tiny", "cnn", "cnn-binary"]
MODELS: dict[Payload, Callable[[], Model]] = {"tiny": tiny, "cnn": cnn, "cnn-binary": cnn}
OCTETS = "application/octet-stream"

Row = NDArray[np.float32]
Ask = Callable[[str, Row, bool], bytes]
"""A whole request for a model's name, a row and whether it goes as bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """One server. `versions`: of Python that it starts with; any, where empty."""

    name: str
    title: str
    ask: Ask
    binary: bool = False
    python: str | None = None


def numbers(row: Row) -> Any:
    """The row as nested lists of short decimals, as people send them."""
    return json.loads(json.dumps(row.astype(float).round(4).tolist()))


def plain(model: str, row: Row, binary: bool) -> bytes:
    """`{"inputs": …}` or raw bytes to `/infer`."""
    if binary:
        return post("/infer", row.tobytes(), {}, OCTETS)
    return post("/infer", json.dumps({"inputs": numbers(row)}).encode(), {})


def v2(model: str, row: Row, binary: bool) -> bytes:
    """The Open Inference Protocol, with its binary extension."""
    described: dict[str, Any] = {"name": "x", "shape": list(row.shape), "datatype": "FP32"}
    if binary:
        described["parameters"] = {"binary_data_size": row.nbytes}
        head = json.dumps({"inputs": [described]}).encode()
        length = {"Inference-Header-Content-Length": str(len(head))}
        return post("/v2/models/peer/infer", head + row.tobytes(), length, OCTETS)
    described["data"] = np.array(numbers(row)).ravel().tolist()
    return post("/v2/models/peer/infer", json.dumps({"inputs": [described]}).encode(), {})


def ours(key: str) -> Ask:
    """Our own, with a key."""

    def ask(model: str, row: Row, binary: bool) -> bytes:
        headers = {"authorization": f"Bearer {key}"}
        if binary:
            return post("/infer", row.tobytes(), {**headers, "infer-model": model}, OCTETS)
        body = {"model": model, "inputs": numbers(row)}
        return post("/infer", json.dumps(body).encode(), headers)

    return ask


INLINE = Contestant(name="inline", title="bare ASGI, model inline", ask=plain, binary=True)
PEERS = (
    Contestant(name="mlserver", title="MLServer 1.7.1", ask=v2),
    Contestant(name="litserve", title="LitServe 0.2.19", ask=plain),
    Contestant(name="bentoml", title="BentoML 1.4.39", ask=plain),
    # Its embedded interpreter needs the standard library of an older 3.11 than some Pythons have.
    Contestant(
        name="pytriton",
        title="Triton 2.51 (PyTriton 0.7.0)",
        ask=v2,
        binary=True,
        python="/usr/bin/python3",
    ),
    Contestant(name="kserve", title="KServe 0.21.0", ask=v2, binary=True),
    Contestant(name="ray", title="Ray Serve 2.60.0", ask=plain, binary=True),
)
