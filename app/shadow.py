"""Copies of live inputs on a worker of its own: how a new variant answers, and nobody waits for it.

A copy is made only while a worker is idle and nothing waits, and one at a time. The worker runs
only when no other process wants its core (Linux, sched(7): SCHED_IDLE), so it takes nothing from
those that serve, and what breaks it breaks nothing else. Payloads are dropped as soon as they are
compared: only counts are kept.
"""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import structlog

from app.catalog import Rollout, ServedModel, ServedVariant
from app.engine.batch import Answer
from app.engine.engine import Engine
from app.engine.limits import Limits
from app.engine.process import spawn
from app.engine.watchdog import Watchdog
from app.engine.worker import LoadFailed, LocalWorker, RunFailed, WorkerLost
from app.metrics import Metrics
from router.sequential import Count
from variants.agreement import likeness
from variants.runtimes import Tensors

log = structlog.get_logger()

LIMIT_S = 10.0
"""A copy that takes longer is given up, with its worker."""

AGAIN_S = 1.0
"""Pause before a worker that was lost is started again."""

MEMORY = 512
"""So many run times are kept."""


class Shadow:
    """Compares one candidate with the reference, on the inputs that it is offered.

    A `shadow` runs on the copies itself; of a `canary`, which has answered already, the answers are
    compared. Without a reference that is served, a shadow is held against the answer that the
    caller got, and a canary against nothing.
    """

    def __init__(
        self, engine: Engine, metrics: Metrics, model: ServedModel, rollout: Rollout
    ) -> None:
        self.agreed = Count()
        self.failed = Count()
        self.times_s: deque[float] = deque(maxlen=MEMORY)
        self._engine = engine
        self._metrics = metrics
        self._spec = model.spec
        self._rollout = rollout
        self._reference = model.variants.get(model.record.reference or "")
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

    def _wanted(self) -> Iterable[ServedVariant]:
        if self._rollout.state == "shadow":
            yield self._rollout.served
        if self._reference is not None:
            yield self._reference

    async def _keep(self) -> None:
        wanted = list(self._wanted())
        while wanted:
            try:
                worker = await LocalWorker.connect(await asyncio.to_thread(spawn, Limits()))
            except OSError as error:  # no process can be had now
                log.warning("shadow_not_started", variant=self._rollout.name, error=str(error))
                await asyncio.sleep(AGAIN_S)
                continue
            try:
                for served in wanted:
                    await worker.load(self._engine.loading(self._spec, served))
                _yield_to_all(worker.pid)
                while True:
                    self._waits = True
                    inputs, answer = await self._copies.get()
                    await self._compare(worker, inputs, answer)
            except (WorkerLost, LoadFailed) as error:
                self.failed = self.failed.plus(True)
                self._count("failed", 1)
                log.warning("shadow_lost", variant=self._rollout.name, error=str(error))
                await asyncio.sleep(AGAIN_S)
            finally:
                self._waits = False
                worker.kill("stop")
                await worker.lost()

    async def _compare(self, worker: LocalWorker, inputs: Tensors, answer: Answer) -> None:
        """Raises `WorkerLost`."""
        try:
            found = answer.outputs
            if self._rollout.state == "shadow":
                found = await self._run(worker, self._rollout.served, inputs)
                self.failed = self.failed.plus(False)
            if self._reference is None or answer.variant.key == self._reference.key:
                expected = answer.outputs
            else:
                expected = await self._run(worker, self._reference, inputs)
            first = self._spec.outputs[0].name
            alike = likeness(
                expected[first], found[first], classes=self._spec.task == "classification"
            )
        except (RunFailed, KeyError, ValueError, IndexError):  # or outputs of another form
            self.failed = self.failed.plus(True)
            self._count("failed", 1)
            return
        self.agreed = Count(hits=self.agreed.hits + alike.agreed, n=self.agreed.n + alike.n)
        self._count("agreed", alike.agreed)
        self._count("disagreed", alike.n - alike.agreed)

    def _count(self, outcome: str, rows: int) -> None:
        self._metrics.compared(self._rollout.served.manifest, outcome, rows)

    async def _run(self, worker: LocalWorker, served: ServedVariant, inputs: Tensors) -> Tensors:
        watchdog = Watchdog(worker, LIMIT_S)
        try:
            result = await worker.run(served.key, inputs)
        finally:
            watchdog.cancel()
        if served.key == self._rollout.served.key:  # then it is a shadow
            self.times_s.append(result.run_s)
        return result.outputs


def _yield_to_all(pid: int) -> None:
    """Let a process run only while no other wants its core, every thread of it."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended, or this system does not allow it
            os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
