"""A runtime without a library, for tests of everything above it.

The artifact is a JSON file: `{"outputs": {"logits": [2]}, "scale": 1.0, "service_s": 0.0,
"fault": null, "fault_above": null}`. Every output is filled with `scale` times the sum of the first
input's row. `fault` is `crash`, `hang` or `shape`, and takes effect at the first run, or at the
first with a value above `fault_above`. `service_s` is not spent on zeros, as in a warm-up.
"""

import json
import os
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
    return _Session(json.loads(path.read_text(encoding="utf-8")))


class _Session:
    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan

    def run(self, inputs: Tensors) -> dict[str, Tensor]:
        first = np.asarray(next(iter(inputs.values())), dtype=np.float32)
        above = self._plan.get("fault_above")
        fault = self._plan.get("fault") if above is None or first.max() > above else None
        if fault == "crash":
            os.abort()
        if fault == "hang":
            time.sleep(3600)
        if first.any():
            time.sleep(self._plan.get("service_s", 0.0))
        rows = first.shape[0] + (fault == "shape")
        sums = np.resize(first.reshape(first.shape[0], -1).sum(axis=1), rows)
        scaled = sums * np.float32(self._plan.get("scale", 1.0))
        return {
            name: np.broadcast_to(scaled.reshape(-1, *([1] * len(shape))), (rows, *shape)).copy()
            for name, shape in self._plan["outputs"].items()
        }
