"""Deadline queues in front of worker processes; the variant is fixed when a worker becomes free."""

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import structlog

from app.catalog import Catalog, ServedModel, ServedVariant
from app.engine.correction import Correction
from app.engine.leases import Leases
from app.engine.slot import Slot
from app.engine.worker import LoadFailed, Loading, LocalWorker, RunFailed, RunResult, WorkerLost
from app.metrics import Metrics
from router.candidate import Candidate
from router.dispatch import dispatch
from router.fleet import Queued, WorkerView
from router.policies import Policy
from variants.manifest import Manifest
from variants.runtimes import Tensor, Tensors
from variants.store import Store

log = structlog.get_logger()

QUARANTINE_CRASHES = 3
QUARANTINE_WINDOW_S = 300.0
HANG_FACTOR = 20.0


class DeadlinePassed(Exception):
    """The work could no longer make its deadline and was dropped before it ran."""


class QueueFull(Exception):
    """The queues hold as many bytes as they may."""


class Draining(Exception):
    """The gateway is shutting down and takes no new work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One request's outputs, from exactly one variant."""

    variant: ServedVariant
    outputs: Mapping[str, Tensor]
    queue_s: float
    run_s: float
    batch_rows: int


@dataclass(kw_only=True, slots=True)
class _Entry:
    """A queued request with its tensors and the future that its caller awaits."""

    queued: Queued
    inputs: Tensors
    keys: tuple[str, ...]
    size_bytes: int
    future: "asyncio.Future[Answer]"


class _ModelState:
    """One model's queue and the live candidates of its variants, draining ones included."""

    def __init__(self) -> None:
        self.entries: dict[int, _Entry] = {}
        self.variants: dict[str, ServedVariant] = {}
        self.corrections: dict[str, Correction] = {}
        self.max_batch = 1


class Engine:
    """Owns the workers and the queues. Used from the event loop only."""

    def __init__(
        self,
        *,
        store: Store,
        policy: Policy,
        metrics: Metrics,
        workers: int,
        threads: int,
        hang_s: float,
        max_queue_bytes: int,
    ) -> None:
        self._store = store
        self._policy = policy
        self._metrics = metrics
        self._threads = threads
        self._hang_s = hang_s
        self._max_queue_bytes = max_queue_bytes
        self._queue_bytes = 0
        self._models: dict[str, _ModelState] = {}
        self._wanted: dict[str, Loading] = {}
        self._leases = Leases()
        self._batches: set[asyncio.Task[None]] = set()
        self._crashes: dict[str, deque[float]] = {}
        self._changed = asyncio.Event()
        self._next_id = 0
        self._draining = False
        self.catalog = Catalog()
        self.overhead_s = 0.001
        self.slots = [
            Slot(number, lambda: self._wanted, self._on_change, self._on_lost)
            for number in range(workers)
        ]

    # Life

    def start(self, catalog: Catalog) -> None:
        """Serve a catalog: spawn the workers, which load the fastest variants first."""
        self.catalog = catalog
        for model in catalog.models.values():
            self._adopt(model)
        for slot in self.slots:
            slot.start()

    async def stop(self, grace_s: float) -> None:
        """Refuse new work, finish what was admitted within `grace_s`, then end the workers."""
        self._draining = True
        end = time.monotonic() + grace_s
        while time.monotonic() < end and (self._batches or any(self._entries())):
            await asyncio.sleep(0.01)
        for entry in list(self._entries()):
            _fail(entry, Draining())
        for slot in self.slots:
            await slot.stop()

    def drain(self) -> None:
        """Refuse new work from now on."""
        self._draining = True

    @property
    def ready(self) -> bool:
        """Whether some worker has every active variant loaded, and the gateway is not stopping."""
        keys = self.catalog.served().keys()
        return not self._draining and any(
            slot.worker is not None and keys <= slot.loaded for slot in self.slots
        )

    # What the router sees

    def queue(self, model: str) -> list[Queued]:
        """The requests that wait for this model."""
        return [entry.queued for entry in self._models[model].entries.values()]

    def workers(self, model: str) -> list[WorkerView]:
        """The workers with the names of this model's variants that they can or soon could run."""
        return [self._view(slot, self._models[model], slot.expected) for slot in self.slots]

    def candidates(self, model: ServedModel) -> list[Candidate]:
        """The routable variants with corrected service times, residency and health."""
        corrections = self._models[model.spec.name].corrections
        expected = frozenset().union(*(slot.expected for slot in self.slots))
        found = []
        for name, served in model.variants.items():
            candidate = corrections[name].candidate
            blocked = self._quarantined(served.key)
            if blocked is not None or served.key not in expected:
                candidate = replace(candidate, resident=served.key in expected, blocked=blocked)
            found.append(candidate)
        return found

    # Requests

    def submit(
        self, model: ServedModel, queued: Queued, inputs: Tensors
    ) -> "asyncio.Future[Answer]":
        """Queue an admitted request; the future brings its answer.

        It fails with `DeadlinePassed`, `RunFailed`, `WorkerLost` or `Draining`. Cancelling it
        removes the request if it has not started. Raises `Draining` or `QueueFull` at once.
        """
        if self._draining:
            raise Draining
        size_bytes = sum(tensor.nbytes for tensor in inputs.values())
        if self._queue_bytes + size_bytes > self._max_queue_bytes:
            raise QueueFull
        state = self._models[model.spec.name]
        entry = _Entry(
            queued=queued,
            inputs=inputs,
            keys=tuple(state.variants[name].key for name in queued.eligible),
            size_bytes=size_bytes,
            future=asyncio.get_running_loop().create_future(),
        )
        state.entries[queued.id] = entry
        self._queue_bytes += size_bytes
        self._leases.acquire(entry.keys)

        def settle(_: "asyncio.Future[Answer]") -> None:
            self._queue_bytes -= size_bytes
            self._leases.release(entry.keys)
            state.entries.pop(queued.id, None)

        entry.future.add_done_callback(settle)
        self._pump()
        return entry.future

    def next_id(self) -> int:
        """A number that no other request of this process has."""
        self._next_id += 1
        return self._next_id

    def queue_depths(self) -> dict[str, int]:
        """Waiting requests by model."""
        return {name: len(state.entries) for name, state in self._models.items()}

    def worker_memory(self) -> dict[int, int | None]:
        """Resident bytes of each worker, None while it is being replaced."""
        return {s.id: s.worker.resident_bytes() if s.worker else None for s in self.slots}

    def health(self) -> list[tuple[Manifest, bool]]:
        """Every active variant, and whether some worker has it and it is not quarantined."""
        return [
            (
                served.manifest,
                any(key in slot.loaded for slot in self.slots) and self._quarantined(key) is None,
            )
            for key, served in self.catalog.served().items()
        ]

    # Switching

    async def engage(self, model: ServedModel, timeout_s: float = 60.0) -> None:
        """Serve a renewed model: load what is new on every worker, then route to it.

        Raises `LoadFailed`, and then serves as before.
        """
        fresh = {v.key: v for v in model.variants.values() if v.key not in self._wanted}
        self._wanted.update({key: self._loading(model, v) for key, v in fresh.items()})
        try:
            loads = [slot.load(self._wanted[key]) for key in fresh for slot in self.slots]
            await asyncio.wait_for(asyncio.gather(*loads), timeout_s)
            async with asyncio.timeout(timeout_s):
                while not self._resident(fresh):
                    self._changed.clear()
                    await self._changed.wait()
        except (LoadFailed, TimeoutError) as error:
            for key in fresh:
                await self._close(key)
            raise LoadFailed(str(error) or f"not loaded within {timeout_s:g} s") from error
        for served in model.variants.values():
            self._crashes.pop(served.key, None)
        self._adopt(model)
        self.catalog = self.catalog.replace(model)

    async def disengage(self, model: ServedModel, variant: str) -> None:
        """Stop routing to a variant, wait until nothing admitted may use it, and close it."""
        served = model.variants[variant]
        self.catalog = self.catalog.replace(model.without(variant))
        await self._leases.drained(served.key)
        state = self._models[model.spec.name]
        del state.variants[variant], state.corrections[variant]
        await self._close(served.key)

    def _adopt(self, model: ServedModel) -> None:
        state = self._models.setdefault(model.spec.name, _ModelState())
        state.max_batch = model.spec.max_batch
        ordered = sorted(model.variants.items(), key=lambda item: _speed(item[1]))
        for name, served in ordered:
            if name not in state.variants:
                state.variants[name] = served
                state.corrections[name] = Correction(served.candidate)
            self._wanted.setdefault(served.key, self._loading(model, served))

    def _loading(self, model: ServedModel, served: ServedVariant) -> Loading:
        profile = served.manifest.profile
        return Loading(
            key=served.key,
            path=str(self._store.blob_path(served.manifest.artifact.digest)),
            runtime=served.manifest.runtime,
            threads=profile.threads if profile is not None else self._threads,
            inputs=model.spec.inputs,
        )

    def _resident(self, keys: Mapping[str, ServedVariant]) -> bool:
        return any(keys.keys() <= slot.loaded for slot in self.slots)

    async def _close(self, key: str) -> None:
        self._wanted.pop(key, None)
        await asyncio.gather(*(slot.unload(key) for slot in self.slots))

    # Dispatch

    def _pump(self) -> None:
        """Give every idle worker a batch while there is one that it can run."""
        for slot in self.slots:
            if slot.idle:
                self._feed(slot)

    def _feed(self, slot: Slot) -> None:
        for state in sorted((s for s in self._models.values() if s.entries), key=_head):
            now = time.monotonic()
            outcome = dispatch(
                self._policy,
                queue=[entry.queued for entry in state.entries.values()],
                candidates={name: c.candidate for name, c in state.corrections.items()},
                worker=replace(self._view(slot, state, slot.loaded), free_at_s=now),
                others=[self._view(s, state, s.expected) for s in self.slots if s is not slot],
                now_s=now,
                overhead_s=self.overhead_s,
                max_batch=state.max_batch,
            )
            for id in outcome.drop:
                _fail(state.entries.pop(id), DeadlinePassed())
            if outcome.choice is not None:
                entries = [state.entries.pop(id) for id in outcome.choice.requests]
                self._launch(slot, state, outcome.choice.variant, entries)
                return

    def _launch(
        self, slot: Slot, state: _ModelState, variant: str, entries: Sequence[_Entry]
    ) -> None:
        served, correction = state.variants[variant], state.corrections[variant]
        rows = sum(entry.queued.rows for entry in entries)
        expected_s = correction.candidate.service_s(rows, 50) if served.candidate.service else 0.1
        slot.running = served.key
        slot.free_at_s = time.monotonic() + expected_s
        batch = asyncio.create_task(
            self._run(
                slot, served, correction, entries, rows, max(self._hang_s, HANG_FACTOR * expected_s)
            )
        )
        self._batches.add(batch)
        batch.add_done_callback(self._batches.discard)

    async def _run(
        self,
        slot: Slot,
        served: ServedVariant,
        correction: Correction,
        entries: Sequence[_Entry],
        rows: int,
        limit_s: float,
    ) -> None:
        worker = slot.worker
        assert worker is not None
        begun = time.monotonic()
        watchdog = asyncio.get_running_loop().call_later(limit_s, worker.kill, "hang")
        try:
            result = await worker.run(served.key, _stack(entries))
            self._check_rows(worker, result, rows)
        except (WorkerLost, RunFailed) as error:
            for entry in entries:
                _fail(entry, error)
        else:
            ratio = correction.observe(rows, result.run_s)
            self._metrics.batch(served.manifest, rows=rows, run_s=result.run_s, ratio=ratio)
            _share(served, entries, result, begun)
        finally:
            watchdog.cancel()
            if slot.worker is worker:
                slot.running = None
                slot.free_at_s = 0.0
                self._pump()

    def _check_rows(self, worker: LocalWorker, result: RunResult, rows: int) -> None:
        for name, tensor in result.outputs.items():
            if tensor.ndim == 0 or len(tensor) != rows:
                worker.kill("garbage")
                raise RunFailed(f"output {name!r} has shape {list(tensor.shape)} for {rows} rows")

    # Workers

    def _view(self, slot: Slot, state: _ModelState, keys: frozenset[str]) -> WorkerView:
        names = frozenset(name for name, served in state.variants.items() if served.key in keys)
        return WorkerView(id=slot.id, free_at_s=slot.free_at_s, loaded=names)

    def _on_change(self) -> None:
        self._changed.set()
        self._pump()

    def _on_lost(self, slot: Slot, worker: LocalWorker, cause: str) -> None:
        if cause == "stop":
            return
        log.warning("worker_lost", worker=slot.id, cause=cause, running=slot.running)
        self._metrics.worker_lost(slot.id, cause)
        if slot.running is not None and (worker.crashed or cause in ("hang", "garbage")):
            self._crashes.setdefault(slot.running, deque(maxlen=QUARANTINE_CRASHES)).append(
                time.monotonic()
            )
        slot.running = None

    def _quarantined(self, key: str) -> str | None:
        crashes = self._crashes.get(key)
        if crashes is None or len(crashes) < QUARANTINE_CRASHES:
            return None
        if time.monotonic() - crashes[0] > QUARANTINE_WINDOW_S:
            return None
        return f"quarantined: it broke its worker {QUARANTINE_CRASHES} times; activate it to retry"

    def _entries(self) -> list[_Entry]:
        return [entry for state in self._models.values() for entry in state.entries.values()]


def _head(state: _ModelState) -> tuple[int, float]:
    """Urgency and deadline of the request that should go first."""
    return min((e.queued.urgency, e.queued.deadline_s) for e in state.entries.values())


def _speed(served: ServedVariant) -> float:
    service = served.candidate.service
    return service[1].p50 if 1 in service else float("inf")


def _stack(entries: Sequence[_Entry]) -> Tensors:
    """The entries' rows as one batch."""
    if len(entries) == 1:
        return entries[0].inputs
    names = entries[0].inputs
    return {name: np.concatenate([entry.inputs[name] for entry in entries]) for name in names}


def _share(
    served: ServedVariant, entries: Sequence[_Entry], result: RunResult, begun_s: float
) -> None:
    """Hand every entry its rows of the batch's outputs."""
    start = 0
    batch_rows = sum(entry.queued.rows for entry in entries)
    for entry in entries:
        stop = start + entry.queued.rows
        if not entry.future.done():
            entry.future.set_result(
                Answer(
                    variant=served,
                    outputs={name: t[start:stop] for name, t in result.outputs.items()},
                    queue_s=begun_s - entry.queued.arrival_s,
                    run_s=result.run_s,
                    batch_rows=batch_rows,
                )
            )
        start = stop


def _fail(entry: _Entry, error: Exception) -> None:
    if not entry.future.done():
        entry.future.set_exception(error)
