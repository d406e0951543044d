"""Variants that do not keep what was measured of them: seen, shown, and demoted if asked.

Latency is seen at every run. Agreement with the reference is seen on a share of the live answers,
where one is asked for, on a worker of its own (`shadow.py`). The last variant that can serve and
the reference are never demoted, only shown.
"""

import asyncio
import math
from dataclasses import asdict
from functools import partial
from typing import Literal

import structlog

from app.catalog import ServedVariant
from app.engine.batch import Answer
from app.engine.engine import Engine
from app.metrics import Metrics
from app.shadow import Shadow
from app.switches import Switches
from router import sequential
from router.promise import LATE_RATIO, Kept, Standing, standing, total
from variants.agreement import Likeness
from variants.errors import Conflict, GearshiftError, NotFound
from variants.manifest import Manifest
from variants.runtimes import Tensors

log = structlog.get_logger()

LOOK_S = 1.0
"""Time between two looks at what has been counted."""

Demote = Literal["off", "flag", "demote"]


class Promises:
    """Counts late runs of every variant; the engine tells of each run."""

    def __init__(
        self,
        *,
        engine: Engine,
        switches: Switches,
        metrics: Metrics,
        demote: Demote,
        audit_ratio: float,
    ) -> None:
        self._engine = engine
        self._switches = switches
        self._metrics = metrics
        self._demote = demote
        self._audit_ratio = audit_ratio
        self._due = 0.0
        self.audits: dict[str, Shadow] = {}
        """By model, where answers are compared with the reference's."""
        self._kept: dict[str, Kept] = {}
        self._broken: set[str] = set()
        if demote != "off":
            engine.on_run = self.ran

    def ran(self, served: ServedVariant, rows: int, run_s: float) -> None:
        """One run of a variant on a worker."""
        kept = self._kept.get(served.key)
        if kept is None:
            kept = self._kept[served.key] = Kept(partial(_promised_s, served))
        kept.ran(rows, run_s)

    def watch(self, model: str, inputs: Tensors, answer: "asyncio.Future[Answer]") -> None:
        """Compare this answer with the reference's, if it is the turn of it."""
        self._due = min(1.0, self._due + self._audit_ratio)
        if self._due >= 1.0 and (audit := self.audits.get(model)) is not None:
            self._due -= 1.0
            answer.add_done_callback(partial(self._offer, audit, inputs))

    def standing(self, manifest: Manifest) -> Standing | None:
        """How a variant stands; None before its first run."""
        kept = self._kept.get(manifest.id)
        if kept is None:
            return None
        others = [one.late.count for key, one in list(self._kept.items()) if key != manifest.id]
        model = self._engine.catalog.models.get(manifest.model)
        promised = None if model is None else _promised(manifest, model.record.reference)
        return standing(kept.late.count, total(others), kept.agreed.count, promised)

    def broken(self) -> list[Manifest]:
        """The variants that break their promise now."""
        served = self._engine.catalog.served()
        return [served[key].manifest for key in self._broken if key in served]

    async def stop(self) -> None:
        """End the workers that compare."""
        await asyncio.gather(*(audit.stop() for audit in self.audits.values()))

    async def keep(self) -> None:
        """Look again and again."""
        while self._demote != "off":
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except Exception:  # whatever it is, the next look comes
                log.exception("promises_not_looked_at")

    def _offer(self, audit: Shadow, inputs: Tensors, future: "asyncio.Future[Answer]") -> None:
        if future.cancelled() or future.exception() is not None:
            return
        answer = future.result()
        if audit.reference is None or answer.variant.key == audit.reference.key:
            return
        if not audit.offer(inputs, answer):
            self._metrics.skipped(answer.variant.manifest)

    def _compared(self, served: ServedVariant, alike: Likeness | None) -> None:
        self._metrics.compared(served.manifest, alike)
        kept = self._kept.get(served.key)
        if alike is not None and kept is not None:
            kept.agreed.add(alike.agreed, alike.n)

    async def _follow(self) -> None:
        """Have a worker for each model whose answers are to be compared."""
        wanted = {}
        for name, model in self._engine.catalog.models.items():
            reference = model.variants.get(model.record.reference or "")
            if reference is not None and len(model.variants) > 1 and self._audit_ratio > 0:
                wanted[name] = (model.spec, reference)
        for name, audit in list(self.audits.items()):
            if name not in wanted or audit.reference != wanted[name][1]:
                await self.audits.pop(name).stop()
        for name, (spec, reference) in wanted.items():
            if name not in self.audits:
                self.audits[name] = Shadow(
                    self._engine, spec, candidate=None, reference=reference, tell=self._compared
                )

    async def _look(self) -> None:
        await self._follow()
        served = self._engine.catalog.served()
        for key in self._kept.keys() - served.keys():
            del self._kept[key]
        self._broken &= served.keys()
        for key in list(self._kept):
            manifest = served[key].manifest
            found = self.standing(manifest)
            if found is None or not found.broken:
                self._broken.discard(key)
                continue
            if key not in self._broken:
                self._broken.add(key)
                log.warning("promise_broken", model=manifest.model, variant=manifest.variant)
            if found.own_doing and self._demote == "demote":
                await self._end(manifest, found)

    async def _end(self, manifest: Manifest, found: Standing) -> None:
        reason = f"demoted: {_told(found)}"
        try:
            await self._switches.deactivate(
                manifest.model,
                manifest.variant,
                "gateway",
                only="active",
                reason=reason,
                evidence=asdict(found),
            )
        except (Conflict, NotFound) as error:  # it is needed, or another gateway was first
            log.info("promise_not_enforced", variant=manifest.variant, reason=str(error))
        except GearshiftError as error:
            log.error("promise_not_enforced", variant=manifest.variant, reason=str(error))


def _promised_s(served: ServedVariant, rows: int) -> float:
    return served.candidate.service_s(rows, 95) if served.candidate.service else math.inf


def _promised(manifest: Manifest, reference: str | None) -> float | None:
    """The least agreement with this reference that was measured, by the build or by the gate."""
    evaluation, alike = manifest.evaluation, manifest.alike
    if evaluation is not None and evaluation.agreement is not None:
        found = evaluation.agreement
        return 1.0 - found.flips.high if found.reference == reference else None
    return alike.share.low if alike is not None and alike.reference == reference else None


def _told(found: Standing) -> str:
    if not found.agrees and found.agreed is not None:
        return (
            f"of {found.rows} live rows {sequential.told(found.agreed, digits=4)} had the "
            f"reference's answer, at least {found.promised_agreement:.4f} were promised"
        )
    return (
        f"of {found.runs} runs {found.late.value:.3f} were later than the profile promised, beyond "
        f"the others' by {sequential.told(found.beyond)}, at most {LATE_RATIO:g}"
    )
