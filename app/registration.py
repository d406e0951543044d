"""New variants while traffic flows: check, trial, profile, activate; and the way back.

Every step is recorded in the registry. Nothing here touches a request: the engine is told of a
change once it is complete.
"""

import asyncio
import dataclasses
import time
from datetime import UTC, datetime
from importlib.metadata import version

import structlog

from app.catalog import ServedModel, ServedVariant, candidate, read_model
from app.engine.engine import Engine
from app.engine.worker import LoadFailed
from app.metrics import Metrics
from app.schemas import VariantIn
from variants import runtimes, trial
from variants.cost import Prices
from variants.data_folder import DataFolder
from variants.errors import Conflict, GearshiftError, Invalid
from variants.lifecycle import State
from variants.manifest import Artifact, Manifest, manifest_id
from variants.registry import VariantRecord

log = structlog.get_logger()

INTERRUPTED: dict[State, State] = {
    "registered": "failed",
    "verified": "failed",
    "profiled": "inactive",
    "draining": "inactive",
}
"""Where a variant goes that a stop of the gateway caught between two states."""


class Registration:
    """Admin changes, one at a time, in the order in which they came."""

    def __init__(
        self, *, data: DataFolder, engine: Engine, metrics: Metrics, prices: Prices, threads: int
    ) -> None:
        self._data = data
        self._engine = engine
        self._metrics = metrics
        self._prices = prices
        self._threads = threads
        self._changing = asyncio.Lock()
        self._trials: set[asyncio.Task[None]] = set()

    def recover(self) -> None:
        """Settle the variants that an earlier run left between two states."""
        for model in self._data.registry.models():
            for variant in self._data.registry.variants(model.spec.name):
                if state := INTERRUPTED.get(variant.state):
                    self._data.registry.move(
                        variant.model,
                        variant.name,
                        state,
                        actor="gateway",
                        reason=f"the gateway stopped while it was {variant.state}",
                    )

    async def register(self, model: str, wanted: VariantIn, actor: str) -> "asyncio.Task[None]":
        """Record a new variant and begin its trial; the task ends when it is active or failed.

        Raises `NotFound` for the model or blob, `Conflict` for a taken name, `Invalid` for an
        unknown parent.
        """
        registry = self._data.registry
        await asyncio.to_thread(self._data.store.blob_size, wanted.artifact.digest)
        names = [v.name for v in await asyncio.to_thread(registry.variants, model)]
        if wanted.parent is not None and wanted.parent not in names:
            raise Invalid(
                f"parent {wanted.parent!r} is not a variant of {model!r}; known: {names}",
                field="parent",
            )
        await asyncio.to_thread(
            registry.add_variant,
            model=model,
            name=wanted.name,
            artifact_digest=wanted.artifact.digest,
            actor=actor,
            reason="registered over the API",
        )
        task = asyncio.create_task(self._try(model, wanted, actor))
        self._trials.add(task)
        task.add_done_callback(self._trials.discard)
        return task

    async def activate(self, model: str, variant: str, actor: str) -> None:
        """Load a variant on the workers and route to it.

        Raises `NotFound`, `Conflict`, or `LoadFailed`; then everything stays as it was.
        """
        start = time.monotonic()
        async with self._changing:
            served = self._engine.catalog.model(model)
            record = await asyncio.to_thread(self._data.registry.variant, model, variant)
            if record.state == "active":
                return
            await self._load(served, record)
            await self._move(model, variant, "active", actor, "activated")
            await self._refresh(model)
        self._metrics.switched(model, "activated", time.monotonic() - start)

    async def deactivate(self, model: str, variant: str, actor: str) -> None:
        """Stop routing to a variant, let its admitted requests finish, and unload it.

        Raises `NotFound`, or `Conflict` for the reference and for the last active variant.
        """
        start = time.monotonic()
        async with self._changing:
            served = self._engine.catalog.model(model)
            record = await asyncio.to_thread(self._data.registry.variant, model, variant)
            if record.state == "inactive":
                return
            if served.record.reference == variant:
                raise Conflict(
                    f"{variant!r} is the reference of {model!r}: set another reference first"
                )
            if set(served.variants) == {variant}:
                raise Conflict(f"{variant!r} is the last active variant of {model!r}")
            await self._move(model, variant, "draining", actor, "deactivated")
            await self._engine.disengage(served, variant)
            await self._move(model, variant, "inactive", actor, "drained")
            await self._refresh(model)
        self._metrics.switched(model, "deactivated", time.monotonic() - start)

    async def set_reference(self, model: str, variant: str) -> None:
        """Count accuracy drops from this variant. Raises `NotFound` or `Conflict`."""
        async with self._changing:
            await asyncio.to_thread(self._data.registry.set_reference, model, variant)
            await self._refresh(model)

    async def stop(self) -> None:
        """End the trials that run; what they tried is settled at the next start."""
        for task in self._trials:
            task.cancel()
        await asyncio.gather(*self._trials, return_exceptions=True)

    async def _try(self, model: str, wanted: VariantIn, actor: str) -> None:
        start = time.monotonic()
        outcome = "ok"
        try:
            manifest = await self._measure(model, wanted)
            await asyncio.to_thread(self._data.store.put_manifest, manifest)
            await self._move(model, wanted.name, "verified", actor, "checked and loaded in a trial")
            await asyncio.to_thread(
                self._data.registry.move,
                model,
                wanted.name,
                "profiled",
                actor=actor,
                reason="measured on this host",
                manifest_id=manifest.id,
            )
            if wanted.activate:
                await self.activate(model, wanted.name, actor)
            else:
                await self._move(model, wanted.name, "inactive", actor, "waits for activation")
        except (GearshiftError, LoadFailed) as error:
            outcome = "failed"
            await self._move(model, wanted.name, "failed", "gateway", str(error))
            log.warning("variant_failed", model=model, variant=wanted.name, reason=str(error))
        except Exception:  # a bug must not leave the variant between two states for ever
            outcome = "failed"
            await self._move(model, wanted.name, "failed", "gateway", "internal error; see the log")
            log.exception("variant_failed", model=model, variant=wanted.name)
        finally:
            self._metrics.registered(outcome, time.monotonic() - start)
            if outcome == "failed" or not wanted.activate:
                async with self._changing:
                    await self._refresh(model)

    async def _measure(self, model: str, wanted: VariantIn) -> Manifest:
        record = await asyncio.to_thread(self._data.registry.model, model)
        store = self._data.store
        digest = record.evaluation_digest
        result = await asyncio.to_thread(
            trial.run,
            trial.Request(
                path=store.blob_path(wanted.artifact.digest),
                spec=record.spec,
                runtimes=runtimes.installed(),
                evaluations={} if digest is None else {"test": store.blob_path(digest)},
                threads=self._threads,
            ),
        )
        parent = None
        if wanted.parent is not None:
            parent = (
                await asyncio.to_thread(self._data.registry.variant, model, wanted.parent)
            ).manifest_id
        artifact = Artifact(
            digest=wanted.artifact.digest,
            size_bytes=store.blob_size(wanted.artifact.digest),
            format="onnx",
        )
        recipe, tools = tuple(wanted.recipe), {"gearshift": version("gearshift")}
        return Manifest(
            id=manifest_id(
                model=model,
                variant=wanted.name,
                parent=parent,
                recipe=recipe,
                tools=tools,
                artifact=artifact,
            ),
            model=model,
            variant=wanted.name,
            parent=parent,
            recipe=recipe,
            tools=tools,
            artifact=artifact,
            runtime=result.runtime,
            accuracy=result.accuracy.get("test"),
            profiles=result.profiles,
            build_key=None,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    async def _load(self, served: ServedModel, record: VariantRecord) -> None:
        """Have the engine serve the variant beside the others."""
        if record.manifest_id is None:
            raise Conflict(f"variant {record.name!r} is {record.state} and was never profiled")
        manifest = await asyncio.to_thread(self._data.store.manifest, record.manifest_id)
        fresh = dataclasses.replace(
            served,
            variants={
                **served.variants,
                record.name: ServedVariant(
                    manifest=manifest, candidate=candidate(manifest, self._prices)
                ),
            },
            others={n: s for n, s in served.others.items() if n != record.name},
        )
        await self._engine.engage(fresh)

    async def _refresh(self, model: str) -> None:
        """Let the snapshot show what the registry says now."""
        renewed = await asyncio.to_thread(read_model, self._data, model, self._prices)
        await self._engine.engage(renewed)

    async def _move(self, model: str, variant: str, state: State, actor: str, reason: str) -> None:
        await asyncio.to_thread(
            self._data.registry.move, model, variant, state, actor=actor, reason=reason
        )
