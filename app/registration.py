"""New variants while traffic flows: through the gates, then where the caller wants them.

Every step is recorded in the registry with what was found. Routing is changed by `switches.py`.
"""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any

import structlog

from app.engine.worker import LoadFailed
from app.findings import Finding
from app.gates import Checked, Gates
from app.metrics import Metrics
from app.progress import MAX_LISTENERS, Progress, Step, TooManyListeners
from app.recovery import at_work
from app.schemas import VariantIn
from app.switches import Switches
from router.rollout import Plan
from variants.data_folder import DataFolder
from variants.errors import Conflict, GearshiftError, Invalid
from variants.lifecycle import INTERRUPTED
from variants.manifest import Manifest
from variants.registry import VariantRecord

log = structlog.get_logger()

EVENT_S = 0.1
"""Least time between two events to one listener."""

LOOK_S = 1.0
"""Longest time after which a listener looks again: another gateway may be at work on it."""


class Registration:
    """Trials of new variants, one at a time, for they measure speed."""

    def __init__(
        self, *, data: DataFolder, gates: Gates, switches: Switches, metrics: Metrics
    ) -> None:
        self._data = data
        self._gates = gates
        self._switches = switches
        self._metrics = metrics
        self._trying = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._progress: dict[tuple[str, str], Progress] = {}
        self._trial: subprocess.Popen[bytes] | None = None
        self._leaving = asyncio.Event()
        self._stopped = False
        self._listeners = 0

    async def register(self, model: str, wanted: VariantIn, actor: str) -> "asyncio.Task[None]":
        """Record a new variant and take it through the gates; the task ends when it is settled.

        Raises `NotFound` for the model or blob, `Conflict` for a taken name or where it is to be
        tried and another one is, `Invalid` for an unknown parent, `SignatureRefused`, and
        `ArtifactRejected` for what is plainly no ONNX file.
        """
        await self._check_names(model, wanted)
        await self._gates.admit(wanted)
        async with contextlib.AsyncExitStack() as work:
            await work.enter_async_context(at_work(self._data.database.claims, model, wanted.name))
            await asyncio.to_thread(
                self._data.registry.add_variant,
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

    async def validate(self, model: str, wanted: VariantIn) -> tuple[Finding, ...]:
        """What every gate would find, with nothing written. Raises as `register` does."""
        await self._check_names(model, wanted)
        if wanted.name in await self._names(model):
            raise Conflict(f"variant {wanted.name!r} of {model!r} exists")
        async with self._trying:
            checked = await self._gates.check(model, wanted, lambda *_: None, self._on_trial)
        return checked.findings

    async def settled(self, task: "asyncio.Task[None]", within_s: float) -> bool:
        """Whether a registration is settled in time; at once False where the gateway leaves."""
        await self._wait(within_s, asyncio.shield(task))
        return task.done()

    async def follow(self, model: str, variant: str) -> AsyncIterator[VariantRecord]:
        """A variant's record at each step, until it is settled or the gateway leaves.

        Raises `NotFound`, or `TooManyListeners`.
        """
        if self._listeners >= MAX_LISTENERS:
            raise TooManyListeners(f"{self._listeners} callers follow registrations already")
        found = await self._record(model, variant)
        return self._steps(found)

    def step(self, model: str, variant: str) -> Step | None:
        """How far a registration is; None where none is going on here."""
        progress = self._progress.get((model, variant))
        return None if progress is None else progress.step

    async def _steps(self, found: VariantRecord) -> AsyncIterator[VariantRecord]:
        self._listeners += 1
        try:
            yield found
            while found.state in INTERRUPTED and not self._leaving.is_set():
                progress = self._progress.get((found.model, found.name))
                if progress is None:
                    await self._wait(LOOK_S)
                else:
                    step = progress.step
                    await self._wait(EVENT_S)
                    if progress.step is step:
                        await self._wait(LOOK_S, progress.changed())
                found = await self._record(found.model, found.name)
                yield found
        finally:
            self._listeners -= 1

    async def _wait(self, within_s: float, *events: Awaitable[object]) -> None:
        """Until one of the events, or the gateway leaves, or the time is over."""
        tasks = [asyncio.ensure_future(event) for event in (self._leaving.wait(), *events)]
        try:
            await asyncio.wait(tasks, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _record(self, model: str, variant: str) -> VariantRecord:
        return await asyncio.to_thread(self._data.registry.variant, model, variant)

    def leave(self) -> None:
        """Let nobody wait any longer."""
        self._leaving.set()

    async def stop(self) -> None:
        """End the trials that run; the next start settles what they tried."""
        self._stopped = True
        if self._trial is not None:
            self._trial.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._gates.close()

    async def _check_names(self, model: str, wanted: VariantIn) -> None:
        names = await self._names(model)
        if wanted.parent is not None and wanted.parent not in names:
            raise Invalid(
                f"parent {wanted.parent!r} is not a variant of {model!r}; known: {names}",
                field="parent",
            )

    async def _names(self, model: str) -> list[str]:
        return [v.name for v in await asyncio.to_thread(self._data.registry.variants, model)]

    async def _settle(
        self, model: str, wanted: VariantIn, actor: str, work: contextlib.AsyncExitStack
    ) -> None:
        self._progress[model, wanted.name] = progress = Progress()
        try:
            async with work:  # the claim on it
                await self._bring(model, wanted, actor, progress)
        finally:
            progress.tell("settled", 1.0)
            del self._progress[model, wanted.name]

    async def _bring(self, model: str, wanted: VariantIn, actor: str, progress: Progress) -> None:
        """Bring a registered variant to where it is wanted, or to `failed`."""
        start = time.monotonic()
        outcome = "failed"
        try:
            async with self._trying:
                checked = await self._gates.check(model, wanted, progress.tell, self._on_trial)
            if checked.manifest is not None:
                await self._pass(model, wanted, actor, checked, checked.manifest)
                outcome = "ok"
            else:
                reason = str(checked.error)
                log.warning("variant_failed", model=model, variant=wanted.name, reason=reason)
                await self._fail(model, wanted.name, reason, checked.evidence())
        except (GearshiftError, LoadFailed) as error:
            log.warning("variant_failed", model=model, variant=wanted.name, reason=str(error))
            await self._fail(model, wanted.name, str(error))
        except Exception:  # a bug must not leave the variant between two states for ever
            log.exception("variant_failed", model=model, variant=wanted.name)
            await self._fail(model, wanted.name, "internal error; see the log")
        self._metrics.registered(outcome, time.monotonic() - start)

    async def _pass(
        self, model: str, wanted: VariantIn, actor: str, checked: Checked, manifest: Manifest
    ) -> None:
        name = wanted.name
        await asyncio.to_thread(self._data.store.put_manifest, manifest)
        await self._switches.move(
            model,
            name,
            "verified",
            actor,
            "checked and loaded in a trial",
            evidence=checked.evidence("signing", "format", "structure", "signature", "load"),
        )
        await self._switches.move(
            model,
            name,
            "profiled",
            actor,
            "measured on this host",
            manifest_id=manifest.id,
            evidence=checked.evidence("profile", "accuracy", "agreement"),
        )
        then = wanted.goal
        try:
            if then == "activate":
                await self._switches.activate(model, name, actor)
                return
            if then != "wait":
                plan = wanted.plan or Plan()
                await self._switches.try_out(model, name, then, plan, actor)
                return
        except Conflict as error:  # it is sound: only there is no room for it now
            await self._switches.move(model, name, "inactive", actor, f"not tried: {error}")
        else:
            await self._switches.move(model, name, "inactive", actor, "waits for activation")
        await self._switches.show(model)

    async def _fail(
        self, model: str, variant: str, reason: str, evidence: Mapping[str, Any] | None = None
    ) -> None:
        try:
            await self._switches.move(
                model, variant, "failed", "gateway", reason, evidence=evidence
            )
            await self._switches.show(model)
        except Exception:  # the database is out of reach; the next start settles it
            log.exception("variant_not_settled", model=model, variant=variant)

    def _on_trial(self, process: subprocess.Popen[bytes]) -> None:
        """Remember the process that runs a stranger's file; called on the trial's thread."""
        self._trial = process
        if self._stopped:
            process.kill()
