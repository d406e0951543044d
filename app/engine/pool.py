"""The workers, and which variants each of them opens."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog

from app.catalog import ServedVariant
from app.engine.limits import OPEN_FILES, Limits
from app.engine.process import Process
from app.engine.quarantine import WORDS, Quarantine
from app.engine.residency import Offer, Residency
from app.engine.slot import Slot
from app.engine.worker import LoadFailed, Loading, LocalWorker
from app.metrics import Metrics
from variants.profile import Profile
from variants.spec import ModelSpec
from variants.store import Store

log = structlog.get_logger()

OPEN_TIMEOUT_S = 120.0

WATCH_S = 0.1
"""Time between two looks at what the workers take."""

FILES_RATIO = 0.75
"""A worker is replaced once it has so much of the open files that it may have."""

BLAMED = frozenset({"hang", "garbage", "oom"})
"""Causes of loss, beside a crash by its own fault, that are put down to the variant that ran."""


class Pool:
    """Keeps every worker alive, with the variants open that it should have, by their keys.

    `residency` plans what is open where, within `memory_bytes`; it is None where all is open
    everywhere. `loadings` is what may be open at all. `on_change` is called when a worker has
    become able to do more or less, `on_quarantined` with a key and the cause. Used from the event
    loop only.
    """

    def __init__(
        self,
        *,
        store: Store,
        metrics: Metrics,
        workers: int,
        threads: int,
        limits: Sequence[Limits],
        memory_bytes: int | None,
        offer: Callable[[], Offer],
        on_change: Callable[[], None],
        on_quarantined: Callable[[str, str], None],
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._threads = threads
        self._on_change = on_change
        self._on_quarantined = on_quarantined
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.loadings: dict[str, Loading] = {}
        self.quarantine = Quarantine()
        self.slots = [
            Slot(
                number,
                partial(self._wanted, number),
                self._tell,
                self._lost,
                limits[number] if number < len(limits) else None,
            )
            for number in range(workers)
        ]
        self.residency = (
            None
            if memory_bytes is None
            else Residency(
                budget_bytes=memory_bytes, slots=self.slots, offer=offer, metrics=metrics
            )
        )

    def start(self, processes: Sequence[Process]) -> None:
        """Start the workers; `processes` were started already, one for each of the first slots."""
        if self.residency is not None:
            self.residency.replan(time.monotonic())
            self._tasks.append(asyncio.create_task(self.residency.keep()))
        for slot in self.slots:
            slot.start(processes[slot.id] if slot.id < len(processes) else None)
        self._tasks.append(asyncio.create_task(self._watch()))

    async def stop(self) -> None:
        """End the workers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(slot.stop() for slot in self.slots))

    def expected(self) -> frozenset[str]:
        """What some worker can run now, or soon where it is being replaced."""
        return frozenset().union(*(slot.expected for slot in self.slots))

    def usable(self) -> frozenset[str]:
        """What can be run: now, soon, or once it is opened within the budget of memory."""
        openable = frozenset() if self.residency is None else self.residency.openable()
        return (self.expected() | openable) - self.quarantine.keys

    def blocked(self, key: str) -> str | None:
        """Why a variant cannot be run, in words; None where it can."""
        if key in self.quarantine.keys:
            return WORDS
        if self.residency is not None and key in self.residency.too_large:
            return "it alone takes more than memory_bytes"
        return None

    def healthy(self, key: str) -> bool:
        """Whether it could be used: it is not quarantined, and some worker has it wherever one
        should."""
        spare = frozenset() if self.residency is None else self.residency.spare()
        return key not in self.quarantine.keys and (key in spare or self.copies(key) > 0)

    def copies(self, key: str) -> int:
        """How many workers have it open."""
        return sum(key in slot.loaded for slot in self.slots)

    def memory(self) -> dict[int, int | None]:
        """Resident bytes of each worker, None while it is being replaced."""
        return {s.id: s.worker.resident_bytes() if s.worker else None for s in self.slots}

    def files(self) -> dict[int, int]:
        """Open files of each worker that lives."""
        return {s.id: s.worker.open_files() for s in self.slots if s.worker}

    def loading(self, spec: ModelSpec, served: ServedVariant) -> Loading:
        """What a worker needs to open a variant."""
        profile = served.manifest.profile
        return Loading(
            key=served.key,
            path=str(self._store.blob_path(served.manifest.artifact.digest)),
            digest=served.manifest.artifact.digest,
            runtime=served.manifest.runtime,
            threads=self._fitting_threads(profile),
            inputs=spec.inputs,
        )

    async def open(self, loading: Loading) -> None:
        """Open a variant on every worker. Ends its quarantine.

        With a budget of memory it is opened on one, and what becomes of it depends on the demand.
        One worker goes first, so that an artifact that breaks it leaves the others alone.
        Raises `LoadFailed`; then everything is as it was.
        """
        key, quarantined = loading.key, self.quarantine.keys
        was_known, was_quarantined = key in self.loadings, key in quarantined
        self.loadings[key] = loading
        quarantined.discard(key)
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await self.slots[0].load(loading)
                rest = self.slots[1:] if self.residency is None else ()
                await asyncio.gather(*(slot.load(loading) for slot in rest))
                while key not in quarantined and not self.copies(key):
                    self._changed.clear()
                    await self._changed.wait()
                if key in quarantined:
                    raise LoadFailed("it breaks the workers that load it")
        except (LoadFailed, TimeoutError) as error:
            if was_quarantined:
                quarantined.add(key)
            if not was_known:
                await self.close(key)
            raise LoadFailed(str(error) or f"not loaded within {OPEN_TIMEOUT_S:g} s") from error
        self.quarantine.forgive(key)

    async def close(self, key: str) -> None:
        """Close a variant, and open it no more."""
        self.loadings.pop(key, None)
        await asyncio.gather(*(slot.unload(key) for slot in self.slots))

    def _wanted(self, number: int) -> Mapping[str, Loading]:
        """What a new worker opens: everything served but what broke the workers before it.

        With a budget of memory, what is planned for it; the first also what was never planned for.
        """
        found = {k: item for k, item in self.loadings.items() if k not in self.quarantine.keys}
        if self.residency is None:
            return found
        planned = self.residency.target[number]
        if number == 0:
            planned |= found.keys() - self.residency.known
        return {key: loading for key, loading in found.items() if key in planned}

    def _fitting_threads(self, profile: Profile | None) -> int:
        """As measured, but never more threads than the cores that a worker is pinned to."""
        threads = self._threads if profile is None else profile.threads
        pinned = [len(slot.limits.cores) for slot in self.slots if slot.limits.cores]
        return min([threads, *pinned])

    async def _watch(self) -> None:
        """Replace workers that have grown too large or leak files, before they break."""
        while True:
            await asyncio.sleep(WATCH_S)
            for slot in self.slots:
                if slot.worker is None:
                    continue
                most_bytes = slot.limits.memory_bytes
                if most_bytes is not None and slot.worker.resident_bytes() > most_bytes:
                    slot.recycle("memory")
                elif slot.worker.open_files() > FILES_RATIO * OPEN_FILES:
                    slot.recycle("files")

    def _tell(self) -> None:
        self._changed.set()
        self._on_change()

    def _lost(self, slot: Slot, worker: LocalWorker, cause: str) -> None:
        self._metrics.worker_lost(slot.id, cause)
        if cause == "recycle":
            return
        log.warning("worker_lost", worker=slot.id, cause=cause, running=worker.lost_running)
        if not worker.crashed and cause not in BLAMED:
            return
        match [key for key in (worker.lost_running, worker.lost_loading) if key is not None]:
            case [key]:
                self._blame(key, cause)
            case [_, _]:
                slot.start_apart()

    def _blame(self, key: str, cause: str) -> None:
        """A variant broke its worker; on repetition it may not do so again until activated."""
        if self.quarantine.broke(key, time.monotonic()):
            log.error("variant_quarantined", key=key)
            self._changed.set()
            self._on_quarantined(key, cause)
