"""Copies of live inputs on a worker of its own: how a variant answers, and nobody waits for it.

A copy is made while a worker is idle and nothing waits, or else every `EVERY_S`, and one at a time.
The worker runs only when no other process wants its core (Linux, sched(7): SCHED_IDLE), so it takes
nothing from those that serve, and what breaks it breaks nothing else. Payloads are dropped as soon
as they are compared: only counts are kept.
"""

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from app.catalog import ServedVariant
from app.engine import cpu
from app.engine.batch import Answer, check_outputs
from app.engine.engine import Engine
from app.engine.limits import Limits
from app.engine.process import spawn
from app.engine.watchdog import Watchdog
from app.engine.worker import LoadFailed, LocalWorker, RunFailed, WorkerLost
from variants.agreement import Likeness, likeness
from variants.errors import GearshiftError
from variants.runtimes import Tensors
from variants.spec import ModelSpec

log = structlog.get_logger()

LIMIT_S = 10.0
"""A copy that takes longer is given up, with its worker."""

LEAST_CPU_S = 5.0
"""Unless it waited for a core meanwhile and was given less than this."""

EVERY_S = 1.0
"""A gateway that is never idle makes a copy so often all the same."""

AGAIN_S = 1.0
"""Pause before a worker that was lost is started again."""

REFERENCE_AGAIN_S = 30.0
"""The same where it is the reference that cannot be run, and nothing is left to compare with."""

MEMORY = 512
"""So many run times are kept."""


class Shadow:
    """Compares answers with the reference's, on the inputs that it is offered.

    A `candidate` is run on copies; without one, the answers that callers got are compared. Where
    there is no `reference`, a candidate is held against the answer that the caller got; where the
    reference breaks on copies, only against the answers that callers got of it. `tell` is told of
    each comparison: the variant that was compared, or the one that failed with None.
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
        self._offered_s = 0.0
        self._without = False
        self._at: ServedVariant | None = None
        self._task = asyncio.create_task(self._keep())

    def offer(self, inputs: Tensors, answer: Answer) -> bool:
        """Compare on these inputs if there is room, and say whether; the caller gets `answer`."""
        if not self._waits or (self._without and not self._is_reference(answer.variant)):
            return False
        now = time.monotonic()
        if not self._engine.spare and now < self._offered_s + EVERY_S:
            return False
        self._waits, self._offered_s = False, now
        self._copies.put_nowait((inputs, answer))
        return True

    async def stop(self) -> None:
        """End the worker."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        while self._candidate is not None or self.reference is not None:
            try:
                worker = await LocalWorker.connect(await asyncio.to_thread(spawn, Limits()))
            except OSError as error:  # no process can be had now
                log.warning("shadow_not_started", model=self._spec.name, error=str(error))
                await asyncio.sleep(AGAIN_S)
                continue
            try:
                await self._load(worker)
                _yield_to_all(worker.pid)
                while True:
                    self._waits = True
                    inputs, answer = await self._copies.get()
                    await self._compare(worker, inputs, answer)
            except (WorkerLost, LoadFailed, GearshiftError) as error:
                again_s = self._lost(error)
            finally:
                self._waits = False
                worker.kill("stop")
                await worker.lost()
            await asyncio.sleep(again_s)

    async def _load(self, worker: LocalWorker) -> None:
        """Raises `WorkerLost`, `LoadFailed`, or `GearshiftError` where a file is not there."""
        for served in (self._candidate, None if self._without else self.reference):
            if served is not None:
                self._at = served
                await worker.load(self._engine.pool.loading(self._spec, served))
        self._at = None

    def _lost(self, error: Exception) -> float:
        """Put it to whose doing it was, and return the seconds to wait."""
        at, again_s = self._at, AGAIN_S
        if at is not None and at is self.reference:
            self._without = self._candidate is not None
            again_s = AGAIN_S if self._without else REFERENCE_AGAIN_S
        name = None if at is None else at.manifest.variant
        log.warning("shadow_lost", model=self._spec.name, variant=name, error=str(error))
        self._blame()
        return again_s

    def _is_reference(self, served: ServedVariant) -> bool:
        return self.reference is not None and served.key == self.reference.key

    def _blame(self) -> None:
        """What was being opened or run has failed; a worker that was lost idle blames nobody."""
        if self._at is not None:
            self._tell(self._at, None)
            self._at = None

    async def _compare(self, worker: LocalWorker, inputs: Tensors, answer: Answer) -> None:
        """Raises `WorkerLost`."""
        compared, found, expected = answer.variant, answer.outputs, answer.outputs
        try:
            if self._candidate is not None:
                compared = self._candidate
                found = await self._run(worker, compared, inputs)
            if self.reference is not None and not self._is_reference(answer.variant):
                expected = await self._run(worker, self.reference, inputs)
        except RunFailed:
            self._blame()
            return
        name = self._spec.outputs[0].name
        classes = self._spec.task == "classification"
        self._tell(compared, likeness(expected[name], found[name], classes=classes))

    async def _run(self, worker: LocalWorker, served: ServedVariant, inputs: Tensors) -> Tensors:
        if not worker.alive:
            raise WorkerLost("exit", begun=False)
        self._at = served
        begun_s = cpu.used_s(worker.pid)
        watchdog = Watchdog(worker, LIMIT_S, excused=partial(_starved, worker.pid, begun_s))
        try:
            result = await worker.run(served.key, inputs)
        finally:
            watchdog.cancel()
        check_outputs(self._spec, len(next(iter(inputs.values()))), result)
        self._at = None
        if served is self._candidate:
            self.times_s.append(result.run_s)
        return result.outputs


def _starved(pid: int, begun_s: float) -> bool:
    """Whether a process has hardly run since it had used so much, because others had its core."""
    return cpu.wanted(pid) and cpu.used_s(pid) - begun_s < LEAST_CPU_S


def _yield_to_all(pid: int) -> None:
    """Let a process run only while no other wants its core, every thread of it."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended, or this system does not allow it
            os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
