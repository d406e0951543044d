"""One place for a worker: starts it, loads what is wanted, and replaces it when it is lost.

A worker that has grown too large is replaced without a gap: its successor starts and opens
everything beside it, and takes its place between two batches.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping

import structlog

from app.engine.limits import Limits
from app.engine.process import Process, spawn
from app.engine.watchdog import Watchdog
from app.engine.worker import LoadFailed, Loading, LocalWorker, WorkerLost

log = structlog.get_logger()

START_S = 1.5
"""First guess of the seconds from spawn to the first loaded variant."""

BACKOFF_S = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0)
"""Pause before a start, by the number of starts in a row that ended before anything was loaded."""

HOPELESS = 3
"""After so many such starts nothing is promised on the next one."""

RECYCLE_AGAIN_S = 2.0
"""Shortest time between two replacements of a worker that was not lost."""

APART_S = 10.0
"""So long may a start hold up work that is to tell what breaks as it opens from what breaks as it
runs."""

OVERDUE = 0.5
"""A start that takes longer than expected is expected to take this share of its time yet."""


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
        limits: Limits | None = None,
    ) -> None:
        self.id = id
        self.limits = limits or Limits()
        self.worker: LocalWorker | None = None
        self.released_s = 0.0
        """When it was last done with a batch."""
        self._in_hand: deque[tuple[float, float]] = deque()
        self._watchdog: Watchdog | None = None
        self._free_at_s = 0.0
        self._begun_s: float | None = None
        self._successor: LocalWorker | None = None
        self._successor_ready = False
        self._recycling: asyncio.Task[None] | None = None
        self._recycled_s = 0.0
        self._wanted = wanted
        self._on_change = on_change
        self._on_lost = on_lost
        self._keeper: asyncio.Task[None] | None = None
        self._settled = False
        self._start_s = START_S
        self._failures = 0
        self._apart_until_s = 0.0

    @property
    def idle(self) -> bool:
        """Whether it can take a batch now."""
        return not self._in_hand and self._able

    @property
    def in_hand(self) -> int:
        """Batches that its worker runs or is to run next."""
        return len(self._in_hand)

    def nearly_free(self, ahead_s: float) -> bool:
        """Whether it will be done within `ahead_s` with the one batch that it has, as expected, so
        that the next one may be on its way."""
        if self.in_hand != 1 or self._successor_ready or not self._able:
            return False
        return 0.0 <= self._free_at_s - time.monotonic() <= ahead_s

    @property
    def _able(self) -> bool:
        alive = self.worker is not None and self.worker.alive
        return alive and (self._settled or time.monotonic() >= self._apart_until_s)

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
        """Keys that it can run now, or soon where it is being started and is not failing.

        Once it runs some, the others are still to be loaded, which may take long.
        """
        if self.loaded or self.settled or self._failures >= HOPELESS:
            return self.loaded
        return frozenset(self._wanted())

    def free_at_s(self, now_s: float) -> float:
        """When it can take the next batch, as far as that can be foreseen; in the past: now."""
        if self._begun_s is None or self.loaded:
            return self._free_at_s
        return max(self._free_at_s, now_s + OVERDUE * (now_s - self._begun_s))

    def begin(self, expected_s: float, limit_s: float) -> None:
        """Have a batch in hand that takes about so long, and `limit_s` at most, after those that
        are in hand already."""
        self._in_hand.append((expected_s, limit_s))
        if len(self._in_hand) == 1:
            self._watch()
        else:
            self._free_at_s += expected_s

    def release(self) -> None:
        """Be done with the first batch in hand; where that was the last one and a successor stands
        ready, it takes the worker's place."""
        self._in_hand.popleft()
        self.released_s = time.monotonic()
        self._watch()
        self._swap()

    def _watch(self) -> None:
        """Time the batch that now runs, if any."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watchdog, self._free_at_s = None, 0.0
        if self._in_hand and self.worker is not None:
            self._watchdog = Watchdog(self.worker, self._in_hand[0][1])
            self._free_at_s = time.monotonic() + sum(expected_s for expected_s, _ in self._in_hand)

    def start_apart(self) -> None:
        """Let the next worker open everything before it runs anything: of the last one nobody can
        say which of the two broke it."""
        self._apart_until_s = time.monotonic() + APART_S

    def recycle(self, cause: str) -> None:
        """Replace the worker by a fresh one that has opened everything, without a gap."""
        worker = self.worker
        rested = time.monotonic() - self._recycled_s > RECYCLE_AGAIN_S
        if worker is not None and self.settled and self._recycling is None and rested:
            self._recycling = asyncio.create_task(self._succeed(worker, cause))

    def start(self, process: Process | None = None) -> None:
        """Begin to keep a worker here, the first one in `process` where one was started already."""
        self._keeper = asyncio.create_task(self._keep(process))

    async def stop(self) -> None:
        """End the worker and do not replace it."""
        for task in (self._keeper, self._recycling):
            if task is not None:
                task.cancel()
        for worker in (self._successor, self.worker):
            if worker is not None:
                worker.kill("stop")
                await worker.lost()

    async def load(self, loading: Loading) -> None:
        """Open one more variant.

        Raises `LoadFailed`, also where the worker crashes over it. The successor of a worker that
        was lost otherwise, or is just being started, opens it.
        """
        while (worker := self.worker) is not None and loading.key not in worker.loaded:
            try:
                await worker.load(loading)
                if self._successor is not None:
                    await self._successor.load(loading)
                break
            except WorkerLost:
                if worker.crashed:
                    raise LoadFailed("the worker crashed while it loaded it") from None
                if self.worker in (worker, None):
                    return
        self._on_change()

    async def unload(self, key: str) -> None:
        """Close a variant; a worker that was lost has closed it already."""
        for worker in (self.worker, self._successor):
            if worker is not None:
                with contextlib.suppress(WorkerLost):
                    await worker.unload(key)

    async def _keep(self, process: Process | None) -> None:
        while True:
            pause_s = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
            self._begun_s = time.monotonic()
            self._free_at_s = self._begun_s + pause_s + self._start_s
            await asyncio.sleep(pause_s)
            self._failures += 1
            try:
                await self._start(process)
            except Exception as error:  # whatever it is, the place is not given up
                log.error("worker_not_started", worker=self.id, exc_info=error)
            process = None
            while self.worker is not None:
                await self._end(self.worker)

    async def _start(self, process: Process | None) -> None:
        begun = time.monotonic()
        worker = self.worker = await LocalWorker.connect(process or spawn(self.limits))

        async def open_one(loading: Loading) -> None:
            if await self._open(worker, loading) and self._failures:
                self._failures = 0  # it serves from here on
                if process is None:
                    self._start_s = time.monotonic() - begun
                self._free_at_s = 0.0
                self._on_change()

        await asyncio.gather(*(open_one(loading) for loading in self._wanted().values()))
        if not worker.alive:
            return
        self._settled = True
        self._failures = 0
        self._free_at_s = 0.0
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
        """Wait for the worker's end and clear its place, unless its successor has it already."""
        cause = await worker.lost()
        if self.worker is not worker:
            self._on_lost(self, worker, cause)
            return
        self._settled = False
        self.worker = None
        self._on_lost(self, worker, cause)
        self._in_hand.clear()
        self._watch()

    async def _succeed(self, worker: LocalWorker, cause: str) -> None:
        """Start a successor beside the worker, have it open the same, and let it take over."""
        try:
            successor = self._successor = await LocalWorker.connect(spawn(self.limits))
            while missing := self._missing(worker, successor):
                await successor.load(missing[0])
            self._successor_ready = True
            log.info("worker_recycled", worker=self.id, cause=cause, pid=successor.pid)
            self._swap()
            await worker.lost()
        except (LoadFailed, WorkerLost, OSError) as error:
            log.error("worker_not_recycled", worker=self.id, cause=cause, error=str(error))
        finally:
            if self._successor is not None:
                self._successor.kill("stop")
            self._successor, self._successor_ready = None, False
            self._recycled_s = time.monotonic()
            self._recycling = None

    def _missing(self, worker: LocalWorker, successor: LocalWorker) -> list[Loading]:
        """What the worker has open, is still wanted, and the successor has not opened yet."""
        keys = worker.loaded - successor.loaded
        return [loading for key, loading in self._wanted().items() if key in keys]

    def _swap(self) -> None:
        """Let the successor take over, if one is ready and no batch is running."""
        if not self._successor_ready or self._in_hand or not self.settled:
            return
        worker, self.worker = self.worker, self._successor
        self._successor, self._successor_ready = None, False
        assert worker is not None
        worker.kill("recycle")
        self._on_change()
