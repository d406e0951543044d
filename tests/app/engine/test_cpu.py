"""Whether a process that is silent hangs, or waits for a core that others have."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.engine import cpu
from app.engine.process import spawn
from app.engine.watchdog import Watchdog
from app.engine.worker import LocalWorker

SPIN = "print(flush=True)\nwhile True: pass"
SLEEP = "import time\nprint(flush=True)\ntime.sleep(60)"


@contextmanager
def running(script: str) -> Iterator[int]:
    """A process on the first core, once it has begun."""
    core = min(os.sched_getaffinity(0))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        try:
            os.sched_setaffinity(process.pid, {core})
            assert process.stdout is not None and process.stdout.readline()
            yield process.pid
        finally:
            process.kill()


def within(seconds: float, pid: int) -> float:
    """Processor time that a process gets in so long."""
    begun_s = cpu.used_s(pid)
    time.sleep(seconds)
    return cpu.used_s(pid) - begun_s


def test_one_that_waits_for_a_core_is_told_from_one_that_sleeps() -> None:
    with running(SPIN) as busy, running(SPIN) as starved, running(SLEEP) as asleep:
        os.sched_setscheduler(starved, os.SCHED_IDLE, os.sched_param(0))
        assert within(0.5, starved) < 0.2
        assert cpu.wanted(starved) and cpu.wanted(busy) and not cpu.wanted(asleep)
        end = time.monotonic() + 20
        while cpu.used_s(busy) < 0.3:
            assert time.monotonic() < end
            time.sleep(0.05)
    assert not cpu.wanted(busy) and cpu.used_s(busy) == 0.0


@pytest.mark.parametrize("excused", [True, False])
def test_a_silent_worker_is_ended_unless_it_is_excused(excused: bool) -> None:
    async def story() -> None:
        worker, asked = await LocalWorker.connect(spawn()), asyncio.Event()
        looks = 0

        def why() -> bool:
            nonlocal looks
            looks += 1
            if looks == 3:
                asked.set()
            return excused

        watchdog = Watchdog(worker, 0.02, excused=why)
        try:
            async with asyncio.timeout(20):
                if excused:
                    await asked.wait()
                else:
                    assert await worker.lost() == "hang"
            assert worker.alive is excused
        finally:
            watchdog.cancel()
            worker.kill("stop")
            await worker.lost()

    asyncio.run(story())
