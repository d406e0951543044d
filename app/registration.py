"""New variants while traffic flows: check, trial, profile, activate; and the way back.

Every step is recorded in the registry first. Nothing here touches a request: the engine loads a
variant before it is told to route to it, and the snapshot is swapped once, when all is done.
"""

import asyncio
import contextlib
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import version

import structlog

from app import catalog
from app.catalog import ServedVariant
from app.engine.engine import Engine
from app.engine.worker import LoadFailed
from app.metrics import Metrics
from app.recovery import at_work
from app.schemas import VariantIn
from variants import artifact, runtimes, trial
from variants.cost import Prices
from variants.data_folder import DataFolder
from variants.errors import Conflict, GearshiftError, Invalid
from variants.lifecycle import State, check_transition
from variants.manifest import Artifact, Manifest, manifest_id
from variants.measure import Effort
from variants.registry import VariantRecord

log = structlog.get_logger()


class Registration:
    """Admin changes, one at a time; and trials, one at a time, for they measure speed."""

    def __init__(
        self,
        *,
        data: DataFolder,
        engine: Engine,
        metrics: Metrics,
        prices: Prices,
        threads: int,
        effort: Effort,
    ) -> None:
        self._data = data
        self._engine = engine
        self._metrics = metrics
        self._prices = prices
        self._threads = threads
        self._effort = effort
        self._changing = asyncio.Lock()
        self._trying = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._trial: subprocess.Popen[bytes] | None = None
        self._stopped = False

    async def register(self, model: str, wanted: VariantIn, actor: str) -> "asyncio.Task[None]":
        """Record a new variant and begin its trial; the task ends when it is active or failed.

        Raises `NotFound` for the model or blob, `Conflict` for a taken name, `Invalid` for an
        unknown parent, `ArtifactRejected` for what is plainly no ONNX file.
        """
        registry, store = self._data.registry, self._data.store
        await asyncio.to_thread(store.blob_size, wanted.artifact.digest)
        await asyncio.to_thread(artifact.check_format, store.blob_path(wanted.artifact.digest))
        names = [v.name for v in await asyncio.to_thread(registry.variants, model)]
        if wanted.parent is not None and wanted.parent not in names:
            raise Invalid(
                f"parent {wanted.parent!r} is not a variant of {model!r}; known: {names}",
                field="parent",
            )
        async with contextlib.AsyncExitStack() as work:
            await work.enter_async_context(at_work(self._data.database.claims, model, wanted.name))
            await asyncio.to_thread(
                registry.add_variant,
                model=model,
                name=wanted.name,
                artifact_digest=wanted.artifact.digest,
                actor=actor,
                reason="registered over the API",
            )
            task = asyncio.create_task(self._settle(model, wanted, actor, work.pop_all()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def activate(self, model: str, variant: str, actor: str) -> None:
        """Load a variant on the workers and route to it; this ends its quarantine.

        Raises `NotFound`, `Conflict`, or `LoadFailed`; then everything stays as it was.
        """
        start = time.monotonic()
        async with self._changing:
            record = await asyncio.to_thread(self._data.registry.variant, model, variant)
            if record.state != "active":
                check_transition(variant, record.state, "active")
            served = await asyncio.to_thread(self._served, record)
            await self._engine.load(self._engine.catalog.model(model), served)
            if record.state != "active":
                try:
                    await self._move(model, variant, "active", actor, "activated")
                except BaseException:
                    await self._engine.unload(served)
                    raise
            await self._publish(model)
        self._metrics.switched(model, "activated", time.monotonic() - start)

    async def deactivate(self, model: str, variant: str, actor: str) -> None:
        """Stop routing to a variant, let its admitted requests finish, and unload it.

        Raises `NotFound`, or `Conflict` for the reference and for the last one that can serve.
        """
        start = time.monotonic()
        async with self._changing:
            served = self._engine.catalog.model(model)
            record = await asyncio.to_thread(self._data.registry.variant, model, variant)
            if record.state == "inactive":
                return
            check_transition(variant, record.state, "draining")
            if served.record.reference == variant:
                raise Conflict(
                    f"{variant!r} is the reference of {model!r}: set another reference first"
                )
            if self._engine.routable(served) <= {variant}:
                raise Conflict(f"{variant!r} is the last variant of {model!r} that can serve")
            async with at_work(self._data.database.claims, model, variant):
                await self._move(model, variant, "draining", actor, "deactivated")
                await self._engine.retire(served, variant)
                await self._move(model, variant, "inactive", actor, "drained")
            await self._publish(model)
        self._metrics.switched(model, "deactivated", time.monotonic() - start)

    async def set_reference(self, model: str, variant: str, actor: str) -> None:
        """Count accuracy drops from this variant. Raises `NotFound` or `Conflict`."""
        async with self._changing:
            await asyncio.to_thread(self._data.registry.set_reference, model, variant, actor=actor)
            await self._publish(model)

    async def stop(self) -> None:
        """End the trials that run; the next start settles what they tried."""
        self._stopped = True
        if self._trial is not None:
            self._trial.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _settle(
        self, model: str, wanted: VariantIn, actor: str, work: contextlib.AsyncExitStack
    ) -> None:
        async with work:  # the claim on it
            await self._bring(model, wanted, actor)

    async def _bring(self, model: str, wanted: VariantIn, actor: str) -> None:
        """Bring a registered variant to `active`, `inactive` or `failed`."""
        start = time.monotonic()
        try:
            async with self._trying:
                manifest = await self._measure(model, wanted)
            await asyncio.to_thread(self._data.store.put_manifest, manifest)
            await self._move(model, wanted.name, "verified", actor, "checked and loaded in a trial")
            await self._move(
                model,
                wanted.name,
                "profiled",
                actor,
                "measured on this host",
                manifest_id=manifest.id,
            )
            if wanted.activate:
                await self.activate(model, wanted.name, actor)
            else:
                await self._move(model, wanted.name, "inactive", actor, "waits for activation")
                await self.show(model)
            outcome = "ok"
        except (GearshiftError, LoadFailed) as error:
            outcome = "failed"
            log.warning("variant_failed", model=model, variant=wanted.name, reason=str(error))
            await self._fail(model, wanted.name, str(error))
        except Exception:  # a bug must not leave the variant between two states for ever
            outcome = "failed"
            log.exception("variant_failed", model=model, variant=wanted.name)
            await self._fail(model, wanted.name, "internal error; see the log")
        self._metrics.registered(outcome, time.monotonic() - start)

    async def _fail(self, model: str, variant: str, reason: str) -> None:
        try:
            await self._move(model, variant, "failed", "gateway", reason)
            await self.show(model)
        except Exception:  # the database is out of reach; the next start settles it
            log.exception("variant_not_settled", model=model, variant=variant)

    async def _measure(self, model: str, wanted: VariantIn) -> Manifest:
        record = await asyncio.to_thread(self._data.registry.model, model)
        store = self._data.store
        digest = record.evaluation_digest
        request = trial.Request(
            path=store.blob_path(wanted.artifact.digest),
            spec=record.spec,
            runtimes=runtimes.installed(),
            evaluations={} if digest is None else {"test": store.blob_path(digest)},
            threads=self._threads,
            effort=self._effort,
        )
        result = await asyncio.to_thread(trial.run, request, on_start=self._on_trial)
        parent = None
        if wanted.parent is not None:
            parent = await asyncio.to_thread(self._data.registry.variant, model, wanted.parent)
        parent_id = None if parent is None else parent.manifest_id
        blob = Artifact(
            digest=wanted.artifact.digest,
            size_bytes=store.blob_size(wanted.artifact.digest),
            format="onnx",
        )
        recipe, tools = tuple(wanted.recipe), {"gearshift": version("gearshift")}
        return Manifest(
            id=manifest_id(
                model=model,
                variant=wanted.name,
                parent=parent_id,
                recipe=recipe,
                tools=tools,
                artifact=blob,
            ),
            model=model,
            variant=wanted.name,
            parent=parent_id,
            recipe=recipe,
            tools=tools,
            artifact=blob,
            runtime=result.runtime,
            accuracy=result.accuracy.get("test"),
            profiles=result.profiles,
            build_key=None,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _on_trial(self, process: subprocess.Popen[bytes]) -> None:
        """Remember the process that runs a stranger's file; called on the trial's thread."""
        self._trial = process
        if self._stopped:
            process.kill()

    def _served(self, record: VariantRecord) -> ServedVariant:
        if record.manifest_id is None:
            raise Conflict(f"variant {record.name!r} is {record.state} and was never profiled")
        return catalog.served(self._data.store.manifest(record.manifest_id), self._prices)

    async def show(self, model: str) -> None:
        """Do as the registry says now, whoever changed it."""
        async with self._changing:
            await self._publish(model)

    async def _publish(self, model: str) -> None:
        """Let the snapshot show what the registry says now."""
        was = self._engine.catalog.models.get(model)
        renewed = await asyncio.to_thread(
            catalog.read_model, self._data, model, self._prices, was=was
        )
        self._engine.publish(renewed)

    async def _move(
        self,
        model: str,
        variant: str,
        state: State,
        actor: str,
        reason: str,
        *,
        manifest_id: str | None = None,
    ) -> None:
        await asyncio.to_thread(
            self._data.registry.move,
            model,
            variant,
            state,
            actor=actor,
            reason=reason,
            manifest_id=manifest_id,
        )
