"""A runtime without a library, for tests of everything above it.

The artifact is a JSON file: `{"outputs": {"logits": [2]}, "scale": 1.0, "service_s": 0.0,
"load_s": 0.0, "fault": null, "fault_above": null}`. Every output is filled with `scale` times the
sum of the first input's row. `service_s` is not spent on zeros, as in a warm-up.

`fault` takes effect at every run, or at those with a value above `fault_above`: `crash`, `hang`,
`shape` (one row too many), `garbage` (bytes that are no frame to the gateway), `memory` (takes a
gibibyte for a moment), `leak` (a mebibyte a run) or `files` (ten open files a run).
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from variants.runtimes import Session, Tensor, Tensors

REQUIRES = None


def version() -> str:
    """Version of this fake."""
    return "1"


def load(path: Path, threads: int) -> Session:
    """Read the JSON file."""
    del threads
    plan = json.loads(path.read_text(encoding="utf-8"))
    time.sleep(plan.get("load_s", 0.0))
    return _Session(plan)


class _Session:
    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._leaked: list[object] = []

    def run(self, inputs: Tensors) -> dict[str, Tensor]:
        first = np.asarray(next(iter(inputs.values())), dtype=np.float32)
        above = self._plan.get("fault_above")
        fault = self._plan.get("fault") if above is None or first.max() > above else None
        if fault == "crash":
            os.abort()
        if fault == "hang":
            time.sleep(3600)
        if fault == "garbage":
            os.write(int(sys.argv[1]), b"\xff" * 8)  # the worker's socket: a frame of 8 GiB
        if fault == "memory":
            np.ones(1 << 27)
        if fault == "leak":
            self._leaked.append(np.ones(1 << 17))
        if fault == "files":
            self._leaked += [os.open(os.devnull, os.O_RDONLY) for _ in range(10)]
        if first.any():
            time.sleep(self._plan.get("service_s", 0.0))
        rows = first.shape[0] + (fault == "shape")
        sums = np.resize(first.reshape(first.shape[0], -1).sum(axis=1), rows)
        scaled = sums * np.float32(self._plan.get("scale", 1.0))
        return {
            name: np.broadcast_to(scaled.reshape(-1, *([1] * len(shape))), (rows, *shape)).copy()
            for name, shape in self._plan["outputs"].items()
        }
