"""Variants that do not run as fast as their profiles promised: seen, shown, and demoted if asked.

The last variant that can serve and the reference are never demoted, only shown.
"""

import asyncio
from collections import defaultdict
from dataclasses import asdict
from typing import Literal

import structlog

from app.catalog import ServedVariant
from app.engine.engine import Engine
from app.metrics import Metrics
from app.switches import Switches
from router.promise import LATE_RATIO, Kept, Standing, standing, total
from variants.errors import Conflict, GearshiftError, NotFound
from variants.manifest import Manifest

log = structlog.get_logger()

LOOK_S = 1.0
"""Time between two looks at what has been counted."""

Demote = Literal["off", "flag", "demote"]


class Promises:
    """Counts late runs of every variant; the engine tells of each run."""

    def __init__(
        self, *, engine: Engine, switches: Switches, metrics: Metrics, demote: Demote
    ) -> None:
        self._engine = engine
        self._switches = switches
        self._metrics = metrics
        self._demote = demote
        self._kept: defaultdict[str, Kept] = defaultdict(Kept)
        self._broken: set[str] = set()
        if demote != "off":
            engine.on_run = self.ran

    def ran(self, served: ServedVariant, rows: int, run_s: float) -> None:
        """One run of a variant on a worker."""
        if served.candidate.service:
            self._kept[served.key].observe(run_s, served.candidate.service_s(rows, 95))

    def standing(self, key: str) -> Standing | None:
        """How a variant stands, by its key; None before its first run."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        others = [found.count for name, found in list(self._kept.items()) if name != key]
        return standing(kept.count, total(others))

    def broken(self) -> list[Manifest]:
        """The variants that break their promise now."""
        served = self._engine.catalog.served()
        return [served[key].manifest for key in self._broken if key in served]

    async def keep(self) -> None:
        """Look again and again."""
        while self._demote != "off":
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except Exception:  # whatever it is, the next look comes
                log.exception("promises_not_looked_at")

    async def _look(self) -> None:
        served = self._engine.catalog.served()
        for key in self._kept.keys() - served.keys():
            del self._kept[key]
        self._broken &= served.keys()
        for key in list(self._kept):
            found = self.standing(key)
            if found is None or not found.broken:
                self._broken.discard(key)
                continue
            manifest = served[key].manifest
            if key not in self._broken:
                self._broken.add(key)
                log.warning("promise_broken", model=manifest.model, variant=manifest.variant)
            if found.own_doing and self._demote == "demote":
                await self._end(manifest, found)

    async def _end(self, manifest: Manifest, found: Standing) -> None:
        beyond = found.beyond
        reason = (
            f"demoted: of {found.runs} runs {found.late.value:.3f} were later than its profile "
            f"promised, beyond the others' by {beyond.value:.3f} "
            f"[{beyond.low:.3f}, {beyond.high:.3f}], at most {LATE_RATIO:g}"
        )
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
