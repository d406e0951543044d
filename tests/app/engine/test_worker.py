"""A real worker process with the fake runtime."""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.process import spawn
from app.engine.worker import LoadFailed, Loading, LocalWorker, RunFailed, WorkerLost
from variants.spec import TensorSpec

X = TensorSpec(name="x", dtype="float32", shape=(2,))
ROWS = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)


def loading(tmp_path: Path, key: str, **plan: Any) -> Loading:
    path = tmp_path / f"{key}.json"
    path.write_text(json.dumps({"outputs": {"y": [2]}, **plan}))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Loading(key=key, path=str(path), digest=digest, runtime="fake", threads=1, inputs=(X,))


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[LocalWorker]:
    worker = await LocalWorker.connect(spawn())
    try:
        yield worker
    finally:
        worker.kill("stop")
        await worker.lost()


def with_worker(story: Callable[[LocalWorker], Awaitable[None]]) -> None:
    """Run a story with a worker on a loop of its own, in at most 20 seconds."""

    async def run() -> None:
        async with asyncio.timeout(20), running() as worker:
            await story(worker)

    asyncio.run(run())


def test_it_loads_runs_and_unloads(tmp_path: Path) -> None:
    async def story(worker: LocalWorker) -> None:
        assert worker.loaded == frozenset()
        assert await worker.load(loading(tmp_path, "a", scale=2.0)) > 0
        await worker.load(loading(tmp_path, "b", scale=-1.0))
        assert worker.loaded == {"a", "b"}
        result = await worker.run("a", {"x": ROWS})
        assert np.array_equal(result.outputs["y"], [[6, 6], [14, 14], [22, 22]])
        assert result.run_s >= 0
        await worker.unload("a")
        assert worker.loaded == {"b"}
        with pytest.raises(RunFailed, match="KeyError"):
            await worker.run("a", {"x": ROWS})
        assert (await worker.run("b", {"x": ROWS})).outputs["y"][0, 0] == -3
        assert worker.resident_bytes() > 1 << 20

    with_worker(story)


def test_a_load_that_fails_names_no_path_and_leaves_the_rest(tmp_path: Path) -> None:
    async def story(worker: LocalWorker) -> None:
        await worker.load(loading(tmp_path, "a"))
        missing = Loading(
            key="b",
            path=str(tmp_path / "none"),
            digest="",
            runtime="fake",
            threads=1,
            inputs=(X,),
        )
        with pytest.raises(LoadFailed) as failed:
            await worker.load(missing)
        assert str(tmp_path) not in str(failed.value)
        unknown = Loading(
            key="c", path="/none", digest="", runtime="nothing", threads=1, inputs=(X,)
        )
        with pytest.raises(LoadFailed, match="unknown runtime"):
            await worker.load(unknown)
        changed = replace(loading(tmp_path, "d"), digest="0" * 64)
        with pytest.raises(LoadFailed, match="damaged"):
            await worker.load(changed)
        assert worker.loaded == {"a"}
        assert worker.alive

    with_worker(story)


def test_loading_does_not_hold_up_a_batch_and_unloading_wins(tmp_path: Path) -> None:
    async def story(worker: LocalWorker) -> None:
        await worker.load(loading(tmp_path, "a"))
        coming = asyncio.create_task(worker.load(loading(tmp_path, "b")))
        going = asyncio.create_task(worker.unload("b"))
        await worker.run("a", {"x": ROWS})
        await asyncio.gather(coming, going)
        assert worker.loaded == {"a"}

    with_worker(story)


def test_a_crash_fails_the_calls_in_flight_and_tells_what_was_loading(tmp_path: Path) -> None:
    async def story(worker: LocalWorker) -> None:
        with pytest.raises(WorkerLost, match="crash"):
            await worker.load(loading(tmp_path, "a", fault="crash"))
        assert await worker.lost() == "crash"
        assert worker.crashed
        assert worker.lost_loading == "a"
        assert not worker.alive
        assert worker.loaded == frozenset()
        with pytest.raises(WorkerLost):
            await worker.run("a", {"x": ROWS})

    with_worker(story)


def test_a_kill_from_outside_is_no_crash(tmp_path: Path) -> None:
    async def story(worker: LocalWorker) -> None:
        await worker.load(loading(tmp_path, "a", service_s=30.0))
        call = asyncio.create_task(worker.run("a", {"x": ROWS}))
        await asyncio.sleep(0.1)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerLost):
            await call
        assert not worker.crashed
        assert worker.lost_loading is None

    with_worker(story)


def test_a_kill_by_the_gateway_keeps_its_cause_and_takes_nothing_more(tmp_path: Path) -> None:
    async def story(worker: LocalWorker) -> None:
        await worker.load(loading(tmp_path, "a", fault="hang", fault_above=0.5))
        call = asyncio.create_task(worker.run("a", {"x": ROWS}))
        await asyncio.sleep(0.05)
        worker.kill("hang")
        worker.kill("garbage")
        with pytest.raises(WorkerLost):
            await worker.run("a", {"x": ROWS})
        with pytest.raises(WorkerLost) as lost:
            await call
        assert lost.value.cause == await worker.lost() == "hang"

    with_worker(story)


@pytest.mark.parametrize("blamed", [None, "b"])
def test_who_was_running_is_told_apart_from_what_was_to_follow(
    tmp_path: Path, blamed: str | None
) -> None:
    async def story(worker: LocalWorker) -> None:
        await worker.load(loading(tmp_path, "a", service_s=0.05))
        await worker.load(loading(tmp_path, "b", fault="hang", fault_above=0.5))
        done = asyncio.create_task(worker.run("a", {"x": ROWS}))
        running = asyncio.create_task(worker.run("b", {"x": ROWS}))
        waiting = asyncio.create_task(worker.run("a", {"x": ROWS}))
        assert (await done).outputs["y"].shape == ROWS.shape
        worker.kill("garbage", blamed)
        begun = []
        for call in (running, waiting):
            with pytest.raises(WorkerLost, match="garbage") as lost:
                await call
            begun.append(lost.value.begun)
        assert begun == [blamed is None, False]
        assert worker.lost_running == "b"

    with_worker(story)


def test_a_reply_that_nobody_waits_for_is_dropped(tmp_path: Path) -> None:
    async def story(worker: LocalWorker) -> None:
        await worker.load(loading(tmp_path, "a", service_s=0.2))
        call = asyncio.create_task(worker.run("a", {"x": ROWS}))
        await asyncio.sleep(0.05)
        call.cancel()
        again = await worker.run("a", {"x": ROWS[:1]})
        assert again.outputs["y"].shape == (1, 2)
        assert worker.alive

    with_worker(story)


@pytest.mark.parametrize(
    "reply",
    [
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x02\0\0\0\0\0\0\0{}",
        b'\x1b\0\0\0\0\0\0\0{"id":"no such","tensors":[]',
        b"\x05\0\0\0\0\0\0\0hello",
    ],
)
def test_garbage_ends_the_worker(tmp_path: Path, reply: bytes) -> None:
    async def story(worker: LocalWorker) -> None:
        await worker.load(loading(tmp_path, "a", service_s=30.0))
        call = asyncio.create_task(worker.run("a", {"x": ROWS}))
        await asyncio.sleep(0.05)
        worker.data_received(reply)
        with pytest.raises(WorkerLost, match="garbage"):
            await call

    with_worker(story)


def test_large_and_small_batches_go_there_and_back(tmp_path: Path) -> None:
    async def story(worker: LocalWorker) -> None:
        await worker.load(loading(tmp_path, "a"))
        for value, n in enumerate((1_000_000, 1, 500_000, 3), start=1):
            rows = np.full((n, 2), value, dtype=np.float32)
            outputs = (await worker.run("a", {"x": rows})).outputs["y"]
            assert outputs.shape == (n, 2)
            assert (outputs == 2 * value).all()

    with_worker(story)
