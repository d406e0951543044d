"""Running a cascade: the cheap variant answers, and the rows that it is unsure of go on."""

import time

import numpy as np
from numpy.typing import NDArray

from app.catalog import ServedModel
from app.engine.batch import Answer
from app.engine.engine import Engine
from app.engine.refusals import DeadlinePassed, Draining, QueueFull, Shed
from app.engine.worker import RunFailed, WorkerLost
from router.cascade import stands_alone
from router.decision import Verdict
from router.fleet import Queued
from variants.confidence import confidence
from variants.evidence import Cascade
from variants.runtimes import Tensor, Tensors


async def run(
    engine: Engine,
    model: ServedModel,
    cascade: Cascade,
    queued: Queued,
    inputs: Tensors,
    *,
    first: Verdict,
    then: Verdict,
) -> Answer:
    """One answer, with what each variant contributed in `parts`. The caller holds leases on both.

    Where `first` does not keep the accuracy bounds by itself, unsure rows must go on, and the first
    run ends early enough for that; otherwise they go on if there is time, and what fails then costs
    nothing. Raises what `Engine.submit` and its future raise.
    """
    needed = not stands_alone(first)
    later_s = then.idle_latency_s or 0.0
    deadline_s = queued.deadline_s - later_s if needed else queued.deadline_s
    quick = await engine.submit(
        model, queued._replace(eligible=(cascade.first,), deadline_s=deadline_s), inputs
    )
    # What is not a number is not sure either.
    unsure = np.flatnonzero(~(confidence(_scores(model, quick)) >= cascade.threshold))
    alone = quick._replace(parts=(quick,), unsure_rows=len(unsure))
    late = time.monotonic() + later_s > queued.deadline_s
    if not len(unsure) or (late and not needed):
        return alone
    again = queued._replace(id=engine.next_id(), eligible=(cascade.then,), rows=len(unsure))
    try:
        good = await engine.submit(
            model, again, {name: tensor[unsure] for name, tensor in inputs.items()}
        )
    except (DeadlinePassed, RunFailed, WorkerLost, QueueFull, Shed, Draining):
        if needed:
            raise
        return alone
    return good._replace(
        outputs={name: _joined(t, unsure, good.outputs[name]) for name, t in quick.outputs.items()},
        queue_s=quick.queue_s + good.queue_s,
        run_s=quick.run_s + good.run_s,
        parts=(quick, good),
        unsure_rows=len(unsure),
    )


def _scores(model: ServedModel, answer: Answer) -> Tensor:
    return answer.outputs[model.spec.outputs[0].name]


def _joined(first: Tensor, rows: NDArray[np.intp], then: Tensor) -> Tensor:
    joined = first.copy()
    joined[rows] = then
    return joined
