"""One place for a worker: starts it, loads what is wanted, and replaces it when it is lost."""

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from app.engine.worker import LoadFailed, Loading, LocalWorker, WorkerLost

log = structlog.get_logger()

START_S = 1.5
"""First guess of the seconds from spawn to the first loaded variant."""

BACKOFF_S = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0)
"""Pause before the n-th start in a row that ended before anything was loaded."""


class Slot:
    """A worker that is always being there, being started, or being replaced.

    `wanted` is read at every start, so a new worker opens what is served at that moment.
    """

    def __init__(
        self,
        id: int,
        wanted: Callable[[], Mapping[str, Loading]],
        on_change: Callable[[], None],
        on_lost: Callable[["Slot", LocalWorker, str], None],
    ) -> None:
        self.id = id
        self.worker: LocalWorker | None = None
        self.running: str | None = None
        self.free_at_s = 0.0
        self._wanted = wanted
        self._on_change = on_change
        self._on_lost = on_lost
        self._starting: asyncio.Task[None] | None = None
        self._start_s = START_S
        self._failures = 0
        self._stopped = False

    @property
    def idle(self) -> bool:
        """Whether it can take a batch now."""
        return self.worker is not None and self.running is None

    @property
    def loaded(self) -> frozenset[str]:
        """Keys that it can run now."""
        return self.worker.loaded if self.worker is not None else frozenset()

    @property
    def expected(self) -> frozenset[str]:
        """Keys that it can run now, or soon where it is being started and is not failing."""
        if self._starting is not None and self._failures < len(BACKOFF_S):
            return self.loaded | frozenset(self._wanted())
        return self.loaded

    def start(self) -> None:
        """Begin to spawn the worker."""
        self.free_at_s = time.monotonic() + self._start_s
        self._starting = asyncio.create_task(self._start())

    async def stop(self) -> None:
        """End the worker and do not replace it."""
        self._stopped = True
        if self._starting is not None:
            self._starting.cancel()
        if self.worker is not None:
            self.worker.kill("stop")

    async def load(self, loading: Loading) -> None:
        """Open one more variant. Raises `LoadFailed`; a lost worker's successor opens it."""
        if self.worker is None:
            return
        try:
            await self.worker.load(loading)
        except WorkerLost:
            return
        self._on_change()

    async def unload(self, key: str) -> None:
        """Close a variant; a worker that was lost has closed it already."""
        if self.worker is not None:
            try:
                await self.worker.unload(key)
            except WorkerLost:
                return

    async def _start(self) -> None:
        await asyncio.sleep(BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)])
        begun = time.monotonic()
        self._failures += 1
        worker = self.worker = await LocalWorker.start(self._lost)
        loads = [self._open(worker, item, begun) for item in self._wanted().values()]
        await asyncio.gather(*loads)
        if self.worker is not worker:
            return
        self._starting, self._failures = None, 0
        log.info("worker_ready", worker=self.id, pid=worker.pid, start_s=time.monotonic() - begun)
        self._on_change()

    async def _open(self, worker: LocalWorker, loading: Loading, begun_s: float) -> None:
        """Open one variant at the start of a worker; it can serve as soon as it has the first."""
        try:
            await worker.load(loading)
        except LoadFailed as error:
            log.error("variant_load_failed", worker=self.id, key=loading.key, error=str(error))
            return
        except WorkerLost:
            return
        if self._failures:
            self._failures = 0
            self._start_s = time.monotonic() - begun_s
            self.free_at_s = 0.0
        self._on_change()

    def _lost(self, worker: LocalWorker, cause: str) -> None:
        if worker is not self.worker:
            return
        if self._starting is not None:
            self._starting.cancel()
        self.worker = None
        self._on_lost(self, worker, cause)
        if not self._stopped:
            self.start()
