"""One place for a worker: starts it, loads what is wanted, and replaces it when it is lost."""

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from app.engine.process import Process, spawn
from app.engine.worker import LoadFailed, Loading, LocalWorker, WorkerLost

log = structlog.get_logger()

START_S = 1.5
"""First guess of the seconds from spawn to the first loaded variant."""

BACKOFF_S = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0)
"""Pause before a start, by the number of starts in a row that ended before anything was loaded."""

HOPELESS = 3
"""After so many such starts nothing is promised on the next one."""


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
        self._keeper: asyncio.Task[None] | None = None
        self._settled = False
        self._start_s = START_S
        self._failures = 0

    @property
    def idle(self) -> bool:
        """Whether it can take a batch now."""
        return self.worker is not None and self.worker.alive and self.running is None

    @property
    def settled(self) -> bool:
        """Whether its worker lives and has opened what was wanted at its start."""
        return self._settled and self.worker is not None and self.worker.alive

    @property
    def loaded(self) -> frozenset[str]:
        """Keys that it can run now."""
        return self.worker.loaded if self.worker is not None else frozenset()

    @property
    def expected(self) -> frozenset[str]:
        """Keys that it can run now, or soon where it is being started and is not failing."""
        if self.settled or self._failures >= HOPELESS:
            return self.loaded
        return self.loaded | frozenset(self._wanted())

    def start(self, process: Process | None = None) -> None:
        """Begin to keep a worker here, the first one in `process` where one was started already."""
        self._keeper = asyncio.create_task(self._keep(process))

    async def stop(self) -> None:
        """End the worker and do not replace it."""
        if self._keeper is not None:
            self._keeper.cancel()
        if self.worker is not None:
            self.worker.kill("stop")
            await self.worker.lost()

    async def load(self, loading: Loading) -> None:
        """Open one more variant.

        Raises `LoadFailed`, also where the worker crashes over it. The successor of a worker that
        was lost otherwise, or is just being started, opens it.
        """
        worker = self.worker
        if worker is None or loading.key in worker.loaded:
            return
        try:
            await worker.load(loading)
        except WorkerLost:
            if worker.crashed:
                raise LoadFailed("the worker crashed while it loaded it") from None
        self._on_change()

    async def unload(self, key: str) -> None:
        """Close a variant; a worker that was lost has closed it already."""
        if self.worker is not None:
            try:
                await self.worker.unload(key)
            except WorkerLost:
                return

    async def _keep(self, process: Process | None) -> None:
        while True:
            pause_s = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
            self.free_at_s = time.monotonic() + pause_s + self._start_s
            await asyncio.sleep(pause_s)
            self._failures += 1
            try:
                await self._start(process)
            except Exception as error:  # whatever it is, the place is not given up
                log.error("worker_not_started", worker=self.id, exc_info=error)
            process = None
            if self.worker is not None:
                await self._end(self.worker)

    async def _start(self, process: Process | None) -> None:
        begun = time.monotonic()
        worker = self.worker = await LocalWorker.connect(process or spawn())

        async def open_one(loading: Loading) -> None:
            if await self._open(worker, loading) and self._failures:
                self._failures = 0  # it serves from here on
                if process is None:
                    self._start_s = time.monotonic() - begun
                self.free_at_s = 0.0
                self._on_change()

        await asyncio.gather(*(open_one(loading) for loading in self._wanted().values()))
        if not worker.alive:
            return
        self._settled = True
        self._failures = 0
        self.free_at_s = 0.0
        log.info("worker_ready", worker=self.id, pid=worker.pid, start_s=time.monotonic() - begun)
        self._on_change()

    async def _open(self, worker: LocalWorker, loading: Loading) -> bool:
        """Whether the variant could be opened at the start of a worker."""
        try:
            await worker.load(loading)
        except LoadFailed as error:
            log.error("variant_load_failed", worker=self.id, key=loading.key, error=str(error))
            return False
        except WorkerLost:
            return False
        self._on_change()
        return True

    async def _end(self, worker: LocalWorker) -> None:
        """Wait for the worker's end and clear its place."""
        cause = await worker.lost()
        self._settled = False
        self.worker = None
        self._on_lost(self, worker, cause)
        self.running = None
