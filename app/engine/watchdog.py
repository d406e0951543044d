"""Ends a worker that is silent for too long, unless it was this process that slept."""

import asyncio
from collections.abc import Callable

from app.engine.worker import LocalWorker

LATE_S = 0.25
"""A timer that fires so much too late says that this process was stopped, not the worker."""


class Watchdog:
    """Kills a worker after `limit_s`, until it is cancelled.

    Where this process was stopped, or the worker is `excused` then, the time begins anew.
    """

    def __init__(
        self, worker: LocalWorker, limit_s: float, *, excused: Callable[[], bool] = lambda: False
    ) -> None:
        self._worker = worker
        self._limit_s = limit_s
        self._excused = excused
        self._loop = asyncio.get_running_loop()
        self._wait()

    def cancel(self) -> None:
        """The worker has answered."""
        self._timer.cancel()

    def _wait(self) -> None:
        self._due_s = self._loop.time() + self._limit_s
        self._timer = self._loop.call_at(self._due_s, self._look)

    def _look(self) -> None:
        if self._loop.time() - self._due_s > LATE_S or self._excused():
            self._wait()
        else:
            self._worker.kill("hang")
