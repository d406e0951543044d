"""Labelled held-out data as one safetensors blob.

Format: one tensor per model input under `input.<name>`, all with the same leading axis, and
int64 class numbers under `labels`. safetensors holds data only (no code) and is read without
copying; source: the format section of the safetensors documentation.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from variants.errors import Invalid
from variants.json_keys import RepeatedKey, unique
from variants.runtimes import Tensor
from variants.spec import Dtype

MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 65
"""As many inputs as a model may have, and the labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSet:
    """`n` labelled rows: inputs by name, each `[n, …]`, and labels `[n] int64`."""

    inputs: Mapping[str, Tensor]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.labels.ndim != 1 or self.labels.dtype != np.int64:
            found = f"{self.labels.dtype}{list(self.labels.shape)}"
            raise Invalid(f"labels are {found}, they must be int64[n]", field="labels")
        n = len(self.labels)
        if n == 0:
            raise Invalid("the evaluation set is empty", field="labels")
        for name, rows in self.inputs.items():
            if rows.shape[:1] != (n,):
                raise Invalid(
                    f"input {name!r} has shape {list(rows.shape)} for {n} labels", field=name
                )
            if rows.dtype.name not in get_args(Dtype):
                raise Invalid(
                    f"input {name!r} is {rows.dtype}; allowed: {', '.join(get_args(Dtype))}",
                    field=name,
                )

    def first(self, n: int) -> "EvaluationSet":
        """The first `n` rows, or all where there are fewer."""
        inputs = {name: rows[:n] for name, rows in self.inputs.items()}
        return EvaluationSet(inputs=inputs, labels=self.labels[:n])

    def batches(self, size: int) -> Iterator[tuple[dict[str, Tensor], NDArray[np.int64]]]:
        """Rows in order, `size` at a time; the last batch may be smaller."""
        for start in range(0, len(self.labels), size):
            stop = start + size
            yield (
                {name: rows[start:stop] for name, rows in self.inputs.items()},
                self.labels[start:stop],
            )


def dumps(evaluation: EvaluationSet) -> bytes:
    """The set as a safetensors file."""
    tensors = {
        f"input.{name}": np.ascontiguousarray(rows) for name, rows in evaluation.inputs.items()
    }
    return save({**tensors, "labels": np.ascontiguousarray(evaluation.labels)})


def load(path: Path) -> EvaluationSet:
    """The set in a safetensors file. Raises `Invalid` where it is damaged."""
    try:
        _check_header(path)
        tensors = load_file(path)
        labels = tensors.pop("labels")
    except (SafetensorError, KeyError, ValueError) as error:
        raise Invalid(f"not an evaluation set: {error}", field="evaluation") from error
    inputs = {name.removeprefix("input."): rows for name, rows in tensors.items()}
    return EvaluationSet(inputs=inputs, labels=labels)


def _check_header(path: Path) -> None:
    """Raise `ValueError` for a header that is large, or names a tensor twice.

    The library takes headers of 100 MB, and the last of two tensors of a name.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 0 < size <= MAX_HEADER_BYTES:
            raise ValueError(f"the header has {size} bytes, not 1 to {MAX_HEADER_BYTES}")
        text = file.read(size)
    try:
        header = json.loads(text, object_pairs_hook=unique)
    except RepeatedKey as error:
        message = f"the header is no JSON: the header has {error.key[:80]!r} twice"
        raise ValueError(message) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the header is no JSON: {error}") from error
    if not isinstance(header, dict) or len(header.keys() - {"__metadata__"}) > MAX_TENSORS:
        raise ValueError(f"the header is no object of at most {MAX_TENSORS} tensors")
