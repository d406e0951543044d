"""Deadline queues in front of worker processes; the variant is fixed when a worker becomes free."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import structlog

from app.catalog import Catalog, ServedModel, ServedVariant
from app.engine.batch import Answer, Batch, Entry, check_outputs, fail, share, stack
from app.engine.expiry import Expiry
from app.engine.lane import Gated, Lane
from app.engine.leases import Leases
from app.engine.limits import Limits
from app.engine.overhead import Overhead
from app.engine.pool import Pool
from app.engine.process import Process
from app.engine.refusals import DeadlinePassed, Draining, QueueFull, Shed
from app.engine.residency import Offer
from app.engine.slot import Slot
from app.engine.worker import LoadFailed, LocalWorker, RunFailed, WorkerLost
from app.metrics import Metrics
from router.candidate import Candidate
from router.dispatch import dispatch
from router.fleet import Queued, WorkerView
from router.gate import Gate
from router.policies import Policy
from router.residency import Item
from router.sharing import Shares
from router.waiting import Waiting
from variants.lifecycle import State
from variants.manifest import Manifest
from variants.runtimes import Tensors
from variants.store import Store

log = structlog.get_logger()

HANG_FACTOR = 20.0
GATE_S = 0.0005
"""Corrections of service times may be seen so late: within a turn of the loop they are not."""

SCARCE_RATIO = 0.5
BODY_RATIO = 0.25
"""Once less than half of the queues' bytes are free, a body may take a quarter of what is left: so
large ones are refused first."""

AHEAD_S = 0.001
"""Beside the time to hand a batch over, the next one is sent so much before a worker is free: the
event loop's timers have this grain."""

LATER: State = "inactive"
"""What a variant is here that is active and not loaded yet."""

RETRIED = frozenset({"crash", "exit"})
"""Causes after which a batch is run once more, unless the variant may have brought it about."""


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
        limits: Sequence[Limits] = (),
        memory_bytes: int | None = None,
    ) -> None:
        self._policy = policy
        self._metrics = metrics
        self._hang_s = hang_s
        self._max_queue_bytes = max_queue_bytes
        self._queue_bytes = 0
        self._models: dict[str, Lane] = {}
        self._leases = Leases()
        self._shares = Shares()
        self._batches: dict[asyncio.Task[None], Batch] = {}
        self._next_id = 0
        self._pumping = False
        self._expiry = Expiry(self._expire)
        self._draining = False
        self._closed = False
        self.catalog = Catalog()
        self.on_run: Callable[[ServedVariant, int, float], None] | None = None
        """Told of each run: the variant, its rows and seconds."""
        # Of a whole request, told by the gateway; and from dispatch to answer, beside the run.
        self.overhead = Overhead(0.001)
        self._handover = Overhead(0.0005)
        self.pool = Pool(
            store=store,
            metrics=metrics,
            workers=workers,
            threads=threads,
            limits=limits,
            memory_bytes=memory_bytes,
            offer=self._offer,
            on_change=self._on_change,
            on_quarantined=self._on_quarantined,
        )

    # Life

    def start(self, catalog: Catalog, processes: Sequence[Process] = ()) -> None:
        """Serve a catalog: the workers load the fastest variants of each model first.

        `processes` are workers that were started already, one for each of the first slots.
        """
        for model in catalog.models.values():
            for served in sorted(model.routed.values(), key=_speed):
                self.pool.loadings[served.key] = self.pool.loading(model.spec, served)
            self.publish(model)
        self.pool.start(processes)

    def drain(self) -> None:
        """Be no longer ready; what still arrives is served until `close`."""
        self._draining = True

    def close(self) -> dict[str, int]:
        """Refuse new work, and give up what waits and has not begun: so many, by model."""
        self._draining = self._closed = True
        left = {name: len(state.entries) for name, state in self._models.items() if state.entries}
        for entry in self._entries():
            fail(entry, Draining())
        return left

    def abandon(self) -> dict[str, int]:
        """Give up what has begun, too: so many, by model. The workers go on with it unheard."""
        left: Counter[str] = Counter()
        for batch in self._batches.values():
            for entry in batch.entries:
                left[batch.spec.name] += not entry.future.done()
                fail(entry, Draining())
        return dict(+left)

    async def stop(self) -> None:
        """End the workers. The server has let what was admitted finish before."""
        self.close()
        await self.pool.stop()

    @property
    def draining(self) -> bool:
        """Whether it leaves."""
        return self._draining

    @property
    def ready(self) -> bool:
        """Whether every model can be answered by a worker that has opened all that it could.

        A variant that cannot be opened, or is quarantined, does not make the others wait.
        """
        return not self._draining and all(
            any(slot.settled and self._serves(slot, model) for slot in self.pool.slots)
            for model in self.catalog.models.values()
        )

    # What the router sees

    def queue(self, model: str) -> Waiting:
        """The requests that wait for this model; read only."""
        return self._models[model].waiting

    def workers(self, model: str) -> list[WorkerView]:
        """The workers with the names of this model's variants that they can or soon could run."""
        return [self._view(slot, self._models[model], slot.expected) for slot in self.pool.slots]

    def rivals(self, model: str) -> int:
        """How many other models have work waiting."""
        return sum(bool(state.entries) for name, state in self._models.items() if name != model)

    def candidates(self, model: ServedModel) -> list[Candidate]:
        """The routable variants with corrected service times, residency and health."""
        corrections = self._models[model.spec.name].corrections
        expected, now = self.pool.expected(), time.monotonic()
        found = []
        for name, served in model.variants.items():
            candidate = corrections[name].candidate(now)
            blocked = self.pool.blocked(served.key)
            if blocked is not None or served.key not in expected:
                candidate = replace(candidate, resident=served.key in expected, blocked=blocked)
            found.append(candidate)
        return found

    def gate(self, model: ServedModel) -> Gate:
        """Admission to this model by its candidates as they are now."""
        state = self._models[model.spec.name]
        now = time.monotonic()
        was = state.gates.get(model.is_canary)
        if was is not None and was.model is model and now < was.until_s:
            return was.gate
        expected = self.pool.expected()
        seen = [state.corrections[name].candidate(now) for name in model.variants]
        if (
            was is None
            or was.model is not model
            or was.expected != expected
            or was.quarantine != self.pool.quarantine.keys
            or any(one is not before for one, before in zip(seen, was.seen, strict=True))
        ):
            was = state.gates[model.is_canary] = Gated(
                gate=Gate(self.candidates(model), model.record.reference),
                model=model,
                expected=expected,
                quarantine=frozenset(self.pool.quarantine.keys),
                seen=seen,
                until_s=now + GATE_S,
            )
        was.until_s = now + GATE_S
        return was.gate

    def _look_again(self) -> None:
        """Workers or quarantine have changed: no gate holds without another look."""
        for state in self._models.values():
            for gated in state.gates.values():
                gated.until_s = 0.0

    @property
    def spare(self) -> bool:
        """Whether a worker is idle and nothing waits."""
        waits = any(state.entries for state in self._models.values())
        return not waits and any(slot.idle for slot in self.pool.slots)

    def routable(self, model: ServedModel) -> frozenset[str]:
        """Names of the variants that can serve: now, or soon where a worker is being replaced, or
        once they are opened within the budget of memory."""
        usable = self.pool.usable()
        return frozenset(name for name, v in model.variants.items() if v.key in usable)

    # Requests

    def submit(
        self, model: ServedModel, queued: Queued, inputs: Tensors
    ) -> "asyncio.Future[Answer]":
        """Queue an admitted request; the future brings its answer.

        It fails with `DeadlinePassed`, `RunFailed`, `WorkerLost` or `Draining`. Cancelling it
        removes the request if it has not started. Raises `Draining` or `QueueFull` at once.
        """
        if self._closed:
            raise Draining
        size_bytes = sum([tensor.nbytes for tensor in inputs.values()])
        room_bytes = self._max_queue_bytes - self._queue_bytes
        scarce = room_bytes < SCARCE_RATIO * self._max_queue_bytes
        if size_bytes > (BODY_RATIO * room_bytes if scarce else room_bytes):
            raise QueueFull(self.backlog_s())
        loop = asyncio.get_running_loop()
        state = self._models[model.spec.name]
        entry = Entry(
            queued=queued,
            inputs=inputs,
            size_bytes=size_bytes,
            keys=state.keys(queued.eligible),
            future=loop.create_future(),
            since_s=time.monotonic(),
        )
        kind = state.hold(entry)
        state.forecast.arrived(entry.since_s, kind, queued.deadline_s - queued.arrival_s)
        self._queue_bytes += size_bytes
        self._leases.acquire(entry.keys)
        if self.pool.residency is not None:
            self.pool.residency.asked(model.spec.name, entry.keys, queued.objective)
        entry.future.add_done_callback(partial(self._settled, state, entry))
        if queued.drop_late:
            self._expiry.by(queued.deadline_s)
        if not self._pumping:  # once a turn of the loop: what arrived together may run together
            self._pumping = True
            loop.call_soon(self._pump)
        return entry.future

    def _settled(self, state: Lane, entry: Entry, future: "asyncio.Future[Answer]") -> None:
        """The request is answered, given up or cancelled."""
        self._queue_bytes -= entry.size_bytes
        self._leases.release(entry.keys)
        if entry.queued.id in state.entries:
            state.take(entry.queued.id)

    def bring(self, model: ServedModel, names: Iterable[str]) -> tuple[str, float] | None:
        """Have one of these variants opened that no worker has, the one that loads soonest.

        Returns its name and the seconds that it will take, None where one of them is open or all
        are always kept open.
        """
        if self.pool.residency is None:
            return None
        absent = {name: model.variants[name] for name in names if name in model.variants}
        expected = self.pool.expected()
        if not absent or any(served.key in expected for served in absent.values()):
            return None
        name = min(absent, key=lambda name: (absent[name].candidate.load_s, name))
        self.pool.residency.require(absent[name].key, time.monotonic())
        return name, absent[name].candidate.load_s

    def fill_ratio(self, model: str, queue_limit: int) -> float:
        """How full the fuller of this model's queue, by number, and of all queues' bytes is."""
        waiting = len(self._models[model].waiting)
        return max(waiting / queue_limit, self._queue_bytes / self._max_queue_bytes)

    def backlog_s(self) -> float:
        """Seconds in which all workers together could do what waits, each at its fastest."""
        now, total_s = time.monotonic(), 0.0
        for state in self._models.values():
            outlook = state.outlook(
                frozenset(state.variants), self.pool.quarantine.keys, now, self._handover.value_s
            )
            for kind, count in state.waiting.counts.items():
                total_s += count * outlook.anywhere_s(kind)
        return total_s / len(self.pool.slots)

    def shed(self, model: str, urgency: int) -> bool:
        """Give up the last of those who wait, if it is less urgent than this; whether one was."""
        state = self._models[model]
        if not state.waiting or (last := state.waiting.requests[-1]).urgency <= urgency:
            return False
        fail(state.take(last.id), Shed(self.backlog_s()))
        return True

    def lease(self, model: ServedModel, names: Iterable[str]) -> Callable[[], None]:
        """Keep these variants from being retired until what is returned is called."""
        state = self._models[model.spec.name]
        keys = tuple(state.variants[name].key for name in names)
        self._leases.acquire(keys)
        return partial(self._leases.release, keys)

    def next_id(self) -> int:
        """A number that no other request of this process has."""
        self._next_id += 1
        return self._next_id

    def queue_depths(self) -> dict[str, int]:
        """Waiting requests by model."""
        return {name: len(state.entries) for name, state in self._models.items()}

    def health(self) -> list[tuple[Manifest, bool]]:
        """Every active variant, and whether it could be used: it is not quarantined, and some
        worker has it wherever one should."""
        return [
            (served.manifest, self.pool.healthy(key))
            for key, served in self.catalog.served().items()
        ]

    def drift(self) -> list[tuple[Manifest, float, bool]]:
        """Median run time ÷ that of the profile, and whether it is off for long, by variant."""
        now, found = time.monotonic(), []
        for model in self.catalog.models.values():
            corrections = self._models[model.spec.name].corrections
            for name, served in model.variants.items():
                correction = corrections[name]
                correction.candidate(now)  # forgets what nothing has confirmed
                found.append((served.manifest, correction.ratio, correction.drifted(now)))
        return found

    def copies(self) -> list[tuple[Manifest, int]]:
        """Every active variant, and how many workers have it open."""
        return [
            (served.manifest, self.pool.copies(key))
            for key, served in self.catalog.served().items()
        ]

    # Switching

    async def load(self, model: ServedModel, served: ServedVariant) -> None:
        """Open a variant, so that it may be published. Raises `LoadFailed`; then all is as it was.

        See `Pool.open`.
        """
        await self.pool.open(self.pool.loading(model.spec, served))

    def publish(self, model: ServedModel) -> None:
        """Route by this snapshot of a model from now on. Variants not loaded yet are not active.

        One without news changes nothing: what was worked out for the last one is kept.
        """
        if model.spec.name not in self._models:
            self._models[model.spec.name] = Lane(model.spec)
        state = self._models[model.spec.name]
        held = {name: v for name, v in model.variants.items() if v.key in self.pool.loadings}
        for served in model.routed.values():
            if served.key in self.pool.loadings:
                state.add(served)
        later = dict.fromkeys(model.variants.keys() - held, LATER)
        shown = replace(model, variants=held, others={**model.others, **later}, canary=None)
        if model.rollout is not None and model.rollout.served.key in self.pool.loadings:
            shown = replace(shown, canary=shown.with_canary())
        if shown != self.catalog.models.get(model.spec.name):
            self.catalog = self.catalog.replace(shown)

    async def relieve(self, model: ServedModel, variant: str) -> None:
        """Have another variant of the model open, so that this one may go without a gap.

        Raises `LoadFailed` where none can be opened.
        """
        names = self.routable(model) - {variant}
        others = [served for name, served in model.variants.items() if name in names]
        expected = self.pool.expected()
        if self.pool.residency is None or any(served.key in expected for served in others):
            return
        for served in sorted(others, key=lambda served: served.candidate.load_s):
            try:
                await self.load(model, served)
            except LoadFailed as error:
                name = served.manifest.variant
                log.error("variant_load_failed", variant=name, error=str(error))
            else:
                self.pool.residency.require(served.key, time.monotonic())
                return
        raise LoadFailed("no other variant can be opened")

    def retire(self, model: ServedModel, variant: str) -> Awaitable[None]:
        """Stop routing to a variant at once; what is returned waits until nothing admitted may use
        it, and closes it."""
        self.catalog = self.catalog.replace(model.without(variant))
        return self._retired(model, variant)

    async def _retired(self, model: ServedModel, variant: str) -> None:
        if served := model.variants.get(variant):
            await self.drained(served)
            await self.forget(model, served)

    async def drained(self, served: ServedVariant) -> None:
        """Return once nothing that was admitted may still use a variant."""
        await self._leases.drained(served.key)

    async def forget(self, model: ServedModel, served: ServedVariant) -> None:
        """Close a variant that is published no more and that nothing may use."""
        self._models[model.spec.name].remove(served.manifest.variant)
        await self.pool.close(served.key)

    # Residency

    def _offer(self) -> Offer:
        """What could be open in the workers, and what waits for it."""
        now = time.monotonic()
        held = [
            (state, name, served)
            for state in self._models.values()
            for name, served in state.variants.items()
            if served.key in self.pool.loadings and served.key not in self.pool.quarantine.keys
        ]
        return Offer(
            items={served.key: _item(state.spec.name, served) for state, _, served in held},
            candidates={
                served.key: state.corrections[name].candidate(now) for state, name, served in held
            },
            loadings={served.key: self.pool.loadings[served.key] for _, _, served in held},
            waiting=[entry.keys for entry in self._entries() if not entry.future.done()],
        )

    # Dispatch

    def _pump(self) -> None:
        """Give every idle worker a batch while there is one that it can run, and the next one to
        those that are about to be free, so that it is there by then."""
        self._pumping = False
        for slot in self.pool.slots:
            if slot.idle:
                self._feed(slot)
        ahead_s = self._ahead_s
        for slot in self.pool.slots:
            if slot.nearly_free(ahead_s):
                self._feed(slot, ahead=True)

    @property
    def _ahead_s(self) -> float:
        return self._handover.value_s + AHEAD_S

    def _foresee(self, slot: Slot) -> None:
        """Look again when a worker is about to be free."""
        now = time.monotonic()
        wait_s = slot.free_at_s(now) - now - self._ahead_s
        if wait_s > 0.0:
            asyncio.get_running_loop().call_later(wait_s, self._pump)

    def _feed(self, slot: Slot, *, ahead: bool = False) -> None:
        for state in self._in_turn():
            now = time.monotonic()
            here = self._view(slot, state, slot.loaded)
            outlook = state.outlook(
                here.loaded, self.pool.quarantine.keys, now, self._handover.value_s
            )
            waiting = state.waiting
            if ahead and outlook.grows(waiting.counts, min(waiting.rows, state.max_batch)):
                return  # what comes meanwhile may share the run
            outcome = dispatch(
                self._policy,
                queue=waiting,
                outlook=outlook,
                others=[self._view(s, state, s.expected) for s in self.pool.slots if s is not slot],
                now_s=max(now, here.free_at_s),
                overhead_s=self._handover.value_s,
                max_batch=min(state.max_batch, self._fair_rows(state)),
                forecast=state.forecast,
            )
            for id in () if ahead else outcome.drop:
                fail(state.take(id), DeadlinePassed())
            if outcome.choice is not None:
                entries = [state.take(id) for id in outcome.choice.requests]
                self._launch(slot, state, outcome.choice.variant, entries)
                return

    def _in_turn(self) -> list[Lane]:
        """The models that wait, in the order in which a free worker should try them."""
        waiting = [state for state in self._models.values() if state.entries]
        if len(waiting) < 2:
            return waiting
        able = self._competing()
        order = self._shares.order({name: state.head for name, state in able.items()})
        return [*map(able.__getitem__, order), *(s for s in waiting if s.spec.name not in able)]

    def _competing(self) -> dict[str, Lane]:
        """The models with waiting requests that some worker could run, by name.

        Who only waits for a variant to be opened saves up no share meanwhile.
        """
        expected = self.pool.expected()
        return {
            name: state
            for name, state in self._models.items()
            if state.entries
            and any(
                not state.names(expected).isdisjoint(kind.eligible) for kind in state.waiting.counts
            )
        }

    def _fair_rows(self, state: Lane) -> int:
        """So many rows that every idle worker gets some of what waits."""
        idle = sum(slot.idle for slot in self.pool.slots)
        if idle <= 1:
            return state.max_batch
        return -(-sum(request.rows for request in state.waiting) // idle)

    def _launch(self, slot: Slot, state: Lane, variant: str, entries: Sequence[Entry]) -> None:
        assert slot.worker is not None
        served, correction = state.variants[variant], state.corrections[variant]
        rows = sum(entry.queued.rows for entry in entries)
        now = time.monotonic()
        candidate = correction.candidate(now)
        expected_s = candidate.service_s(rows, 50) if candidate.service else 0.1
        limit_s = max(self._hang_s, HANG_FACTOR * expected_s)
        if slot.idle:
            slot.begin(expected_s + self._handover.value_s, limit_s)
            self._foresee(slot)
        else:
            slot.begin(expected_s, limit_s)
        others = self._competing() if len(self._models) > 1 else ()
        self._shares.begin(state.spec.name, expected_s, others)
        batch = Batch(
            spec=state.spec,
            served=served,
            correction=correction,
            entries=entries,
            rows=rows,
            expected_s=expected_s,
        )
        task = asyncio.create_task(self._run(slot, slot.worker, batch))
        self._batches[task] = batch
        task.add_done_callback(self._batches.pop)

    async def _run(self, slot: Slot, worker: LocalWorker, batch: Batch) -> None:
        begun = time.monotonic()
        try:
            result = await worker.run(batch.served.key, stack(batch.entries))
            now = time.monotonic()
            begun = max(begun, min(slot.released_s, now - result.run_s))
            self._handover.observe(now - begun - result.run_s)
            try:
                check_outputs(batch.spec, batch.rows, result)
            except RunFailed:
                worker.kill("garbage", batch.served.key)
                raise
            ratio = batch.correction.observe(batch.rows, result.run_s, time.monotonic())
            self._metrics.batch(
                batch.served.manifest, rows=batch.rows, run_s=result.run_s, ratio=ratio
            )
            if self.on_run is not None:
                self.on_run(batch.served, batch.rows, result.run_s)
            share(batch, result, begun)
        except Exception as error:  # nobody may be left waiting, whatever it is
            if isinstance(error, WorkerLost) and not error.begun:
                begun = time.monotonic()
            for entry in batch.entries:
                if not self._retry(entry, batch, worker, error):
                    fail(entry, error)
        finally:
            self._shares.correct(batch.spec.name, time.monotonic() - begun - batch.expected_s)
            if worker.alive:
                slot.release()
                if not slot.idle:
                    self._foresee(slot)
                self._pump()

    def _retry(self, entry: Entry, batch: Batch, worker: LocalWorker, error: Exception) -> bool:
        """Queue a request once more whose worker was killed from outside, or had not begun it.

        Asking twice does no harm. What may itself have broken the worker is not given another.
        """
        if not isinstance(error, WorkerLost) or entry.future.done() or self._closed:
            return False
        if error.begun:
            if error.cause not in RETRIED or worker.crashed or entry.retried:
                return False
            entry.retried = True
        if time.monotonic() >= entry.queued.deadline_s:
            return False
        self._models[batch.spec.name].hold(entry)
        if entry.queued.drop_late:
            self._expiry.by(entry.queued.deadline_s)
        if error.begun:
            self._metrics.retried(batch.served.manifest)
        return True

    def _expire(self, now_s: float) -> float:
        """What waits for a worker beyond its deadline is given up; while no worker is free, nobody
        else would. Returns the next deadline."""
        next_s = math.inf
        for state in self._models.values():
            for entry in list(state.entries.values()):
                if not entry.queued.drop_late:
                    continue
                if entry.queued.deadline_s <= now_s:
                    fail(state.take(entry.queued.id), DeadlinePassed())
                else:
                    next_s = min(next_s, entry.queued.deadline_s)
        return next_s

    def _view(self, slot: Slot, state: Lane, keys: frozenset[str]) -> WorkerView:
        free_at_s = slot.free_at_s(time.monotonic())
        return WorkerView(id=slot.id, free_at_s=free_at_s, loaded=state.names(keys))

    def _on_change(self) -> None:
        self._look_again()
        self._pump()

    def _on_quarantined(self, key: str, cause: str) -> None:
        """A variant is out: who may use no other is told so."""
        if (served := self.catalog.served().get(key)) is not None:
            self._metrics.ejected(served.manifest, cause)
        self._look_again()
        for entry in self._entries():
            if self.pool.quarantine.keys.issuperset(entry.keys):
                fail(entry, RunFailed("every variant that it may use is quarantined"))

    def _serves(self, slot: Slot, model: ServedModel) -> bool:
        return not model.variants or any(v.key in slot.loaded for v in model.variants.values())

    def _entries(self) -> list[Entry]:
        return [entry for state in self._models.values() for entry in state.entries.values()]


def _item(model: str, served: ServedVariant) -> Item:
    profile, artifact = served.manifest.profile, served.manifest.artifact
    size_bytes = 2 * artifact.size_bytes if profile is None else profile.memory_bytes
    return Item(model=model, size_bytes=size_bytes, load_s=served.candidate.load_s)


def _speed(served: ServedVariant) -> float:
    service = served.candidate.service
    return service[1].p50 if 1 in service else float("inf")
