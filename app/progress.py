"""How far a registration is, for those who follow it."""

import asyncio
from dataclasses import dataclass

from variants.errors import GearshiftError

MAX_LISTENERS = 32
"""So many may follow registrations at once: each holds a connection."""


class TooManyListeners(GearshiftError):
    """Enough callers follow registrations already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What is being done, and the share of the registration that is done, from 0 to 1."""

    doing: str
    share: float


class Progress:
    """The step of one registration. Told from any thread, waited for on the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self.step = Step(doing="waiting for other trials", share=0.0)

    def tell(self, doing: str, share: float) -> None:
        """Go on to another step, or further in this one."""
        self._loop.call_soon_threadsafe(self._set, Step(doing=doing, share=round(share, 3)))

    def _set(self, step: Step) -> None:
        self.step = step
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def changed(self) -> None:
        """Return after the next change."""
        await self._changed.wait()
