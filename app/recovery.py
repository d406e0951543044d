"""What a gateway that died left between two states is settled by one that lives."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from variants.claims import Claims, Release
from variants.errors import (
    BeingChanged,
    Conflict,
    NotFound,
    RegistryReadOnly,
    StorageBroken,
    StorageFull,
)
from variants.lifecycle import INTERRUPTED
from variants.registry import Registry, VariantRecord

log = structlog.get_logger()

UNSETTLED = (Conflict, NotFound, RegistryReadOnly, StorageBroken, StorageFull)
"""Another one was quicker, or the disk takes nothing now: it is tried again later."""


def claim_name(model: str, variant: str) -> str:
    """What whoever moves this variant through passing states holds meanwhile."""
    return f"{model}/{variant}"


@asynccontextmanager
async def at_work(claims: Claims, model: str, variant: str) -> AsyncIterator[None]:
    """Hold a variant while it is moved through passing states.

    Raises `BeingChanged` where another gateway is at work on it.
    """
    release = await asyncio.to_thread(claims.take, claim_name(model, variant))
    if release is None:
        raise BeingChanged(f"variant {variant!r} of {model!r} is being changed: try again")
    try:
        yield
    finally:
        await asyncio.to_thread(release)


class Recovery:
    """Settles variants in a passing state that nobody is at work on. Several may try at once."""

    def __init__(self, registry: Registry, claims: Claims) -> None:
        self._registry = registry
        self._claims = claims
        self._seen: dict[tuple[str, str, int], float] = {}

    def settle(self) -> None:
        """Settle what has been nobody's for the claims' patience. Raises `RegistryUnavailable`."""
        self._claims.renew()
        now, found = time.monotonic(), self._registry.unsettled(INTERRUPTED.keys())
        seen = {(record.model, record.name, record.version): record for record in found}
        self._seen = {key: self._seen.get(key, now) for key in seen}
        for key, record in seen.items():
            try:
                release = self._claims.take(claim_name(record.model, record.name))
                if release is None:
                    self._seen[key] = now
                else:
                    self._settle(record, release, now - self._seen[key])
            except UNSETTLED as error:
                log.warning("variant_not_settled", variant=record.name, error=str(error))

    def _settle(self, record: VariantRecord, release: Release, free_s: float) -> None:
        try:
            if free_s < self._claims.patience_s:
                return
            if self._registry.variant(record.model, record.name).state != record.state:
                return  # it moved on before its name was taken here
            self._registry.move(
                record.model,
                record.name,
                INTERRUPTED[record.state],
                actor="gateway",
                reason=f"the gateway stopped while it was {record.state}",
            )
        finally:
            release()
