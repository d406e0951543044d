"""Follows what other gateways and the command line change in the database.

Twice a second, and at once where PostgreSQL tells of it, the counter of changes is looked at; when
it has moved, keys are read again, and beside that the models that changed: a model that takes long
to fetch delays no key's end. When the database is gone the snapshot goes on serving, and this says
so until it is back.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

import structlog

from app.metrics import Metrics
from app.recovery import Recovery
from variants.data_folder import DataFolder
from variants.errors import RegistryUnavailable
from variants.postgres import Postgres
from variants.registry import Mark

log = structlog.get_logger()

POLL_S = 0.5
RECOVER_S = 2.0
"""Time between two looks for what a gateway that died left behind."""


class Changes:
    """Keeps a gateway's snapshot as the registry is.

    `show` renews one model, unless the one of this mark is what it shows; without a mark always.
    `refresh` renews the keys. `unreachable_since` is None while the database answers.
    """

    def __init__(
        self,
        *,
        data: DataFolder,
        show: Callable[[str, Mark | None], Awaitable[None]],
        refresh: Callable[[], None],
        recovery: Recovery,
        metrics: Metrics,
    ) -> None:
        self._data = data
        self._show = show
        self._refresh = refresh
        self._recovery = recovery
        self._metrics = metrics
        self._told = asyncio.Event()
        self._moved = asyncio.Event()
        self._version: int | None = None
        self._marks: Mapping[str, Mark] = {}
        self._recovered_s = 0.0
        self.unreachable_since: datetime | None = None

    @property
    def trouble(self) -> str:
        """What is wrong with the registry, in words; empty while nothing is."""
        if self.unreachable_since is not None:
            return f"unreachable since {self.unreachable_since.isoformat(timespec='seconds')}"
        return self._data.database.read_only

    def begin(self) -> None:
        """Settle what was left behind, and take the models as they are now as what is shown."""
        self._recovery.settle()
        self._recovered_s = time.monotonic()
        self._marks = self._data.registry.marks()

    def look_anew(self) -> None:
        """Read everything again, whether it has changed or not."""
        self._version, self._marks = None, {}
        self._told.set()

    async def follow(self) -> None:
        """Follow the changes for ever."""
        beside = [asyncio.create_task(self._listen()), asyncio.create_task(self._show_changed())]
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._told.wait()
                self._told.clear()
                await self.look()
        finally:
            for task in beside:
                task.cancel()

    async def look(self) -> None:
        """Renew the keys where anything has changed since the last look, and have models shown."""
        try:
            version = await asyncio.to_thread(self._data.database.version)
            if time.monotonic() - self._recovered_s > RECOVER_S:
                self._recovered_s = time.monotonic()
                await asyncio.to_thread(self._recovery.settle)
            if version != self._version:
                await asyncio.to_thread(self._refresh)
                self._version = version
                self._moved.set()
        except RegistryUnavailable as error:
            self._gone(error)
        except Exception:  # following must not end; what is shown goes on serving
            log.exception("changes_not_followed")
        else:
            self._back()

    async def _show_changed(self) -> None:
        """Show each model that has changed, for ever; what fails is tried again soon."""
        while True:
            await self._moved.wait()
            self._moved.clear()
            try:
                marks = await asyncio.to_thread(self._data.registry.marks)
                for model, mark in marks.items():
                    if (known := self._marks.get(model)) != mark:
                        await self._show(model, mark if known else None)
                        self._marks = {**self._marks, model: mark}
            except RegistryUnavailable:
                self._version = None
            except Exception:  # what is shown goes on serving
                self._version = None
                log.exception("changes_not_shown")

    async def _listen(self) -> None:
        """Be told by the server, where it can; looking every `POLL_S` goes on all the same."""
        backend = self._data.database.backend
        if not isinstance(backend, Postgres):
            return
        import psycopg

        while True:
            with contextlib.suppress(psycopg.Error):
                async for _ in backend.notices():
                    self._told.set()
            await asyncio.sleep(POLL_S)

    def _gone(self, error: RegistryUnavailable) -> None:
        self._version, self._marks = None, {}  # it may come back as another one
        if self.unreachable_since is None:
            self.unreachable_since = datetime.now(UTC)
            log.error("registry_unreachable", error=str(error))
        self._metrics.registry_is(up=False, read_only=bool(self._data.database.read_only))

    def _back(self) -> None:
        if self.unreachable_since is not None:
            self.unreachable_since = None
            log.warning("registry_reachable")
        self._metrics.registry_is(up=True, read_only=bool(self._data.database.read_only))
