"""Requests that wait or run together, and how a run's outputs become their answers."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from app.catalog import ServedVariant
from app.engine.worker import RunFailed, RunResult
from router.correction import Correction
from router.fleet import Queued
from variants.runtimes import Tensor, Tensors
from variants.spec import ModelSpec


class Answer(NamedTuple):
    """One request's outputs, from exactly one variant.

    A cascade's answer is made of the `parts` that its variants gave, and `unsure_rows` of the first
    one's were below the threshold; `variant` is then the last that was asked.
    """

    variant: ServedVariant
    outputs: Mapping[str, Tensor]
    queue_s: float
    run_s: float
    batch_rows: int
    parts: "tuple[Answer, ...]" = ()
    unsure_rows: int = 0


@dataclass(kw_only=True, slots=True)
class Entry:
    """A queued request with its tensors and the future that its caller awaits.

    `since_s` is when it was queued: later than its arrival by what decoding took.
    """

    queued: Queued
    inputs: Tensors
    size_bytes: int
    keys: tuple[str, ...]
    future: "asyncio.Future[Answer]"
    since_s: float
    retried: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one run consists of."""

    spec: ModelSpec
    served: ServedVariant
    correction: Correction
    entries: Sequence[Entry]
    rows: int
    expected_s: float


def stack(entries: Sequence[Entry]) -> Tensors:
    """The entries' rows as one batch."""
    if len(entries) == 1:
        return entries[0].inputs
    names = entries[0].inputs
    return {name: np.concatenate([entry.inputs[name] for entry in entries]) for name in names}


def check_outputs(spec: ModelSpec, rows: int, result: RunResult) -> None:
    """Raises `RunFailed` for outputs that are not what the model promises."""
    for output in spec.outputs:
        shape = (rows, *output.shape)
        found = result.outputs.get(output.name)
        if found is None or found.shape != shape or found.dtype != output.dtype:
            seen = "missing" if found is None else f"{found.dtype.name}{list(found.shape)}"
            raise RunFailed(
                f"output {output.name!r} is {seen}; the model promises {output.dtype}{list(shape)}"
            )


def share(batch: Batch, result: RunResult, begun_s: float) -> None:
    """Hand every entry its rows of the batch's outputs."""
    start = 0
    for entry in batch.entries:
        stop = start + entry.queued.rows
        if not entry.future.done():
            entry.future.set_result(
                Answer(
                    variant=batch.served,
                    outputs={name: t[start:stop] for name, t in result.outputs.items()},
                    queue_s=begun_s - entry.since_s,
                    run_s=result.run_s,
                    batch_rows=batch.rows,
                )
            )
        start = stop


def fail(entry: Entry, error: Exception) -> None:
    """Tell the caller, unless it has its answer or has left."""
    if not entry.future.done():
        entry.future.set_exception(error)
