"""What each variant is for, changed while traffic flows: one change of a variant at a time.

Each is written to the registry first. Nothing here touches a request: the engine loads a variant
before it is told to route to it, and the snapshot is swapped once, when all is done. A variant that
loads or drains holds up no other: what a whole model must agree on is looked at and shown under a
lock of the model's own, which is never held for long.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal
from weakref import WeakValueDictionary

import structlog

from app import catalog
from app.catalog import ServedModel, ServedVariant
from app.engine.engine import Engine
from app.engine.worker import LoadFailed
from app.metrics import Metrics
from app.recovery import at_work
from router.rollout import PLAN, Plan
from variants.cost import Prices
from variants.data_folder import DataFolder
from variants.errors import Conflict
from variants.lifecycle import CANDIDATES, State, check_transition
from variants.registry import Mark, VariantRecord

log = structlog.get_logger()

Evidence = Mapping[str, Any]

INSTEAD = "put another in its place first, or force"


class Switches:
    """Moves variants of a running gateway from state to state."""

    def __init__(
        self, *, data: DataFolder, engine: Engine, metrics: Metrics, prices: Prices
    ) -> None:
        self._data = data
        self._engine = engine
        self._metrics = metrics
        self._prices = prices
        self._locks: WeakValueDictionary[tuple[str, ...], asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._shown: dict[str, Mark | None] = {}

    async def activate(
        self,
        model: str,
        variant: str,
        actor: str,
        *,
        only: State | None = None,
        reason: str = "",
        evidence: Evidence | None = None,
    ) -> None:
        """Load a variant on the workers and route to it; this ends its quarantine.

        With `only` it must be in that state. Raises `NotFound`, `Conflict`, or `LoadFailed`; then
        everything stays as it was.
        """
        start = time.monotonic()
        async with self._lock(model, variant):
            record = await self._record(model, variant, only)
            with self._counted(model, "activated", start):
                if record.state == "active":
                    served = await asyncio.to_thread(self._served, record)
                    await self._engine.load(self._engine.catalog.model(model), served)
                    await self.show(model)
                else:
                    why = reason or "activated"
                    await self._bring_in(record, "active", actor, why, evidence=evidence)

    async def try_out(
        self,
        model: str,
        variant: str,
        state: Literal["shadow", "canary"],
        plan: Plan,
        actor: str,
        *,
        only: State | None = None,
        reason: str = "",
        evidence: Evidence | None = None,
    ) -> None:
        """Let a variant show what it is worth, or go on with another plan where it does already.

        Raises `NotFound`, `LoadFailed`, or `Conflict`, also where another one is being tried; then
        everything stays as it was.
        """
        text = PLAN.dump_json(plan).decode()
        reason = reason or f"tried as {state}"
        start = time.monotonic()
        async with self._lock(model, variant):
            record = await self._record(model, variant, only)
            with self._counted(model, state, start):
                if record.state == state:
                    replan = partial(self._data.registry.replan, actor=actor, reason=reason)
                    async with self._showing(model):
                        await asyncio.to_thread(replan, model, variant, text)
                else:
                    told = {**(evidence or {}), "plan": PLAN.dump_python(plan, mode="json")}
                    await self._bring_in(record, state, actor, reason, plan=text, evidence=told)

    async def deactivate(
        self,
        model: str,
        variant: str,
        actor: str,
        *,
        force: bool = False,
        only: State | None = None,
        reason: str = "",
        evidence: Evidence | None = None,
    ) -> None:
        """Stop routing to a variant, and unload it once its admitted requests have finished.

        For a shadow or canary this is the way back: it returns at once, and what still runs on it
        ends in its own time. Raises `NotFound`, or `Conflict` for the reference and for the last
        variant that can serve, unless it is to be by `force`.
        """
        reason = reason or "deactivated"
        start = time.monotonic()
        async with self._lock(model, variant):
            record = await self._record(model, variant, only)
            if record.state == "inactive":
                return
            with self._counted(model, "deactivated", start):
                if record.state in CANDIDATES:
                    async with self._showing(model):
                        await self._move_on(record, "inactive", actor, reason, evidence=evidence)
                else:
                    await self._drain(record, actor, force=force, reason=reason, evidence=evidence)

    async def retire(
        self,
        model: str,
        variant: str,
        actor: str,
        *,
        force: bool = False,
        reason: str = "",
    ) -> None:
        """End a variant for good; its artifact may be swept. Raises as `deactivate` does."""
        record = await self._record(model, variant)
        if record.state == "retired":
            return
        if record.state not in {"failed", "inactive"}:
            await self.deactivate(model, variant, actor, force=force, reason="to be retired")
        async with self._lock(model, variant):
            record = await self._record(model, variant)
            async with self._showing(model):
                await self._move_on(record, "retired", actor, reason or "retired")

    async def set_reference(
        self, model: str, variant: str, actor: str, *, reason: str = ""
    ) -> None:
        """Count accuracy drops from this variant. Raises `NotFound` or `Conflict`."""
        act = partial(self._data.registry.set_reference, actor=actor, reason=reason)
        async with self._showing(model):
            await asyncio.to_thread(act, model, variant)

    async def show(self, model: str, mark: Mark | None = None) -> None:
        """Do as the registry says now, whoever changed it; nothing where it shows this mark."""
        if mark is not None and mark == self._shown.get(model):
            return
        await asyncio.to_thread(self._read, model)  # what the store has to fetch holds up nobody
        async with self._showing(model):
            pass

    async def move(
        self, model: str, variant: str, state: State, actor: str, reason: str, **rest: Any
    ) -> None:
        """Record a step of a variant's life; the rest as `Registry.move` takes it."""
        act = partial(self._data.registry.move, actor=actor, reason=reason, **rest)
        await asyncio.to_thread(act, model, variant, state)

    async def stop(self) -> None:
        """Leave what is still being loaded or closed to the end of the workers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _lock(self, *names: str) -> asyncio.Lock:
        """That of a variant, held through its whole change, or, inside it, that of a model."""
        return self._locks.setdefault(names, asyncio.Lock())

    @asynccontextmanager
    async def _showing(self, model: str) -> AsyncIterator[None]:
        """Hold a model's lock for a change of the registry, and show what it has become."""
        async with self._lock(model):
            yield
            await self._publish(model)

    @contextmanager
    def _counted(self, model: str, outcome: str, start: float) -> Iterator[None]:
        """Count what is done inside; what the variant's state does not allow is no failure."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, Conflict):
                self._metrics.switched(model, "failed", time.monotonic() - start)
            raise
        self._metrics.switched(model, outcome, time.monotonic() - start)

    async def _bring_in(
        self,
        record: VariantRecord,
        state: State,
        actor: str,
        reason: str,
        *,
        plan: str | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        """Move a variant into a state, loaded first where requests are to be routed to it, and
        show it."""
        check_transition(record.name, record.state, state)
        served = await asyncio.to_thread(self._served, record)
        known = served.key in self._engine.catalog.served()
        if state != "shadow":
            await self._engine.load(self._engine.catalog.model(record.model), served)
        async with self._showing(record.model):
            try:
                await self._move_on(record, state, actor, reason, plan=plan, evidence=evidence)
            except BaseException:
                if not known:
                    await self._engine.pool.close(served.key)
                raise

    async def _drain(
        self,
        record: VariantRecord,
        actor: str,
        *,
        force: bool,
        reason: str,
        evidence: Evidence | None,
    ) -> None:
        model, variant = record.model, record.name
        check_transition(variant, record.state, "draining")
        relieved = await self._relieved(model, variant)
        async with at_work(self._data.database.claims, model, variant):
            async with self._lock(model):
                if needed := self._needed(model, variant, relieved=relieved):
                    if not force:
                        raise Conflict(f"{variant!r} is {needed}: {INSTEAD}")
                    reason = f"{reason}, by force: it was {needed}"
                await self._move_on(
                    record, "draining", actor, reason, evidence=evidence, spare_only=not force
                )
                drained = self._engine.retire(self._engine.catalog.model(model), variant)
            await drained
            async with self._showing(model):
                await self._move_on(replace(record, state="draining"), "inactive", actor, "drained")

    async def _relieved(self, model: str, variant: str) -> bool:
        """Whether another variant is open, if need be opened now, so that this one may go."""
        served = self._engine.catalog.model(model)
        if served.record.reference == variant or self._engine.routable(served) <= {variant}:
            return False
        try:
            await self._engine.relieve(served, variant)
        except LoadFailed:
            return False
        return True

    def _needed(self, model: str, variant: str, *, relieved: bool) -> str | None:
        """Why a variant should not go, in words."""
        served = self._engine.catalog.model(model)
        if served.record.reference == variant:
            return f"the reference of {model!r}"
        if not relieved or self._engine.routable(served) <= {variant}:
            return f"the last variant of {model!r} that can serve"
        return None

    def _served(self, record: VariantRecord) -> ServedVariant:
        if record.manifest_id is None:
            raise Conflict(f"variant {record.name!r} is {record.state} and was never profiled")
        manifest = self._data.store.manifest(record.manifest_id)
        self._data.store.heal(manifest.artifact.digest)  # so that workers find it here
        return catalog.served(manifest, self._prices)

    async def _record(self, model: str, variant: str, only: State | None = None) -> VariantRecord:
        found = await asyncio.to_thread(self._data.registry.variant, model, variant)
        if only is not None and found.state != only:
            raise Conflict(f"variant {variant!r} is {found.state}, no longer {only}")
        return found

    async def _publish(self, model: str) -> None:
        """Renew the snapshot; what is new in it is loaded, what is gone from it closed, meanwhile.

        A variant that another gateway has brought in joins the snapshot once it is loaded here.
        The model's lock is held, so that an older state never replaces a newer one.
        """
        old = self._engine.catalog.models.get(model)
        renewed = await asyncio.to_thread(self._read, model)
        missing = [
            each for each in renewed.routed.values() if each.key not in self._engine.pool.loadings
        ]
        self._engine.publish(renewed)
        self._shown[model] = renewed.mark
        for served in missing:
            self._meanwhile(self._join(renewed, served))
        kept = self._engine.catalog.model(model).routed
        for name, served in {} if old is None else old.routed.items():
            if name not in kept:
                self._meanwhile(self._close(renewed, served))

    def _read(self, model: str) -> ServedModel:
        was = self._engine.catalog.models.get(model)
        return catalog.read_model(self._data, model, self._prices, was=was)

    def _meanwhile(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, model: ServedModel, served: ServedVariant) -> None:
        start = time.monotonic()
        try:
            await self._engine.load(model, served)
        except LoadFailed as error:  # the others are served
            self._metrics.switched(model.spec.name, "failed", time.monotonic() - start)
            log.error("variant_load_failed", variant=served.manifest.variant, error=str(error))
        else:
            await self.show(model.spec.name)
            if served.key not in self._engine.catalog.served():  # it was on its way out meanwhile
                await self._close(model, served)

    async def _close(self, model: ServedModel, served: ServedVariant) -> None:
        """Unload a variant once nothing may use it, unless it is back by then."""
        await self._engine.drained(served)
        async with self._lock(model.spec.name, served.manifest.variant):
            if served.key not in self._engine.catalog.served():
                await self._engine.forget(model, served)

    async def _move_on(
        self, record: VariantRecord, state: State, actor: str, reason: str, **rest: Any
    ) -> None:
        """Move a variant on from where it was found."""
        model, name = record.model, record.name
        await self.move(model, name, state, actor, reason, only=record.state, **rest)
