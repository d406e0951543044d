"""Copies of live inputs on a worker of its own: how a variant answers, and nobody waits for it.

A copy is made only while a worker is idle and nothing waits, and one at a time. The worker runs
only when no other process wants its core (Linux, sched(7): SCHED_IDLE), so it takes nothing from
those that serve, and what breaks it breaks nothing else. Payloads are dropped as soon as they are
compared: only counts are kept.
"""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

import structlog

from app.catalog import ServedVariant
from app.engine.batch import Answer
from app.engine.engine import Engine
from app.engine.limits import Limits
from app.engine.process import spawn
from app.engine.watchdog import Watchdog
from app.engine.worker import LoadFailed, LocalWorker, RunFailed, WorkerLost
from variants.agreement import Likeness, likeness
from variants.runtimes import Tensors
from variants.spec import ModelSpec

log = structlog.get_logger()

LIMIT_S = 10.0
"""A copy that takes longer is given up, with its worker."""

AGAIN_S = 1.0
"""Pause before a worker that was lost is started again."""

MEMORY = 512
"""So many run times are kept."""


class Shadow:
    """Compares answers with the reference's, on the inputs that it is offered.

    A `candidate` is run on copies; without one, the answers that callers got are compared. Where
    there is no `reference`, a candidate is held against the answer that the caller got. `tell` is
    told of each comparison: the variant that was compared, and None where that failed.
    """

    def __init__(
        self,
        engine: Engine,
        spec: ModelSpec,
        *,
        candidate: ServedVariant | None,
        reference: ServedVariant | None,
        tell: Callable[[ServedVariant, Likeness | None], None],
    ) -> None:
        self.times_s: deque[float] = deque(maxlen=MEMORY)
        """Seconds of the candidate's last runs."""
        self.reference = reference
        self._engine = engine
        self._spec = spec
        self._candidate = candidate
        self._tell = tell
        self._copies: asyncio.Queue[tuple[Tensors, Answer]] = asyncio.Queue(maxsize=1)
        self._waits = False
        self._task = asyncio.create_task(self._keep())

    def offer(self, inputs: Tensors, answer: Answer) -> None:
        """Compare on these inputs, if there is room; `answer` is what the caller gets."""
        if self._waits and self._engine.spare:
            self._waits = False
            self._copies.put_nowait((inputs, answer))

    async def stop(self) -> None:
        """End the worker."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        wanted = [v for v in (self._candidate, self.reference) if v is not None]
        while wanted:
            try:
                worker = await LocalWorker.connect(await asyncio.to_thread(spawn, Limits()))
            except OSError as error:  # no process can be had now
                log.warning("shadow_not_started", model=self._spec.name, error=str(error))
                await asyncio.sleep(AGAIN_S)
                continue
            try:
                for served in wanted:
                    await worker.load(self._engine.pool.loading(self._spec, served))
                _yield_to_all(worker.pid)
                while True:
                    self._waits = True
                    inputs, answer = await self._copies.get()
                    await self._compare(worker, inputs, answer)
            except (WorkerLost, LoadFailed) as error:
                if self._candidate is not None:
                    self._tell(self._candidate, None)
                log.warning("shadow_lost", model=self._spec.name, error=str(error))
                await asyncio.sleep(AGAIN_S)
            finally:
                self._waits = False
                worker.kill("stop")
                await worker.lost()

    async def _compare(self, worker: LocalWorker, inputs: Tensors, answer: Answer) -> None:
        """Raises `WorkerLost`."""
        compared, found, expected = answer.variant, answer.outputs, answer.outputs
        try:
            if self._candidate is not None:
                compared = self._candidate
                found = await self._run(worker, compared, inputs)
            if self.reference is not None and answer.variant.key != self.reference.key:
                expected = await self._run(worker, self.reference, inputs)
            name = self._spec.outputs[0].name
            classes = self._spec.task == "classification"
            alike = likeness(expected[name], found[name], classes=classes)
        except (RunFailed, KeyError, ValueError, IndexError):  # or outputs of another form
            self._tell(compared, None)
        else:
            self._tell(compared, alike)

    async def _run(self, worker: LocalWorker, served: ServedVariant, inputs: Tensors) -> Tensors:
        watchdog = Watchdog(worker, LIMIT_S)
        try:
            result = await worker.run(served.key, inputs)
        finally:
            watchdog.cancel()
        if served is self._candidate:
            self.times_s.append(result.run_s)
        return result.outputs


def _yield_to_all(pid: int) -> None:
    """Let a process run only while no other wants its core, every thread of it."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended, or this system does not allow it
            os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
