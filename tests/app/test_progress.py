"""Following a registration: steps come in order, and only so many may listen."""

import asyncio
import threading
from pathlib import Path

import pytest

from app.metrics import Metrics
from app.progress import MAX_LISTENERS, Progress, TooManyListeners
from app.registration import LOOK_S, Registration
from tests import models
from variants.data_folder import DataFolder, open_data_folder
from variants.errors import NotFound


def test_a_step_told_from_another_thread_wakes_who_waits() -> None:
    async def run() -> None:
        progress = Progress()
        waiting = asyncio.create_task(progress.changed())
        await asyncio.sleep(0)
        threading.Thread(target=progress.tell, args=("measuring", 0.25)).start()
        await asyncio.wait_for(waiting, 5)
        assert (progress.step.doing, progress.step.share) == ("measuring", 0.25)

    asyncio.run(run())


def elsewhere(data: DataFolder) -> Registration:
    """What a gateway has that registers nothing itself."""
    return Registration(
        data=data,
        gates=None,  # type: ignore[arg-type]
        switches=None,  # type: ignore[arg-type]
        metrics=Metrics(),
    )


def test_only_so_many_may_follow_and_each_place_is_given_back(tmp_path: Path) -> None:
    async def run() -> None:
        with open_data_folder(tmp_path) as data:
            data.registry.put_model(models.tiny_spec(), None, actor="test")
            data.registry.add_variant(
                model="tiny", name="new", artifact_digest="a" * 64, actor="test", reason="test"
            )
            registration = elsewhere(data)
            with pytest.raises(NotFound):
                await registration.follow("tiny", "nothing")
            streams = [await registration.follow("tiny", "new") for _ in range(MAX_LISTENERS)]
            for stream in streams:
                assert (await anext(stream)).state == "registered"
            with pytest.raises(TooManyListeners):
                await registration.follow("tiny", "new")
            await streams.pop().aclose()  # type: ignore[attr-defined]
            await registration.follow("tiny", "new")
            data.registry.move("tiny", "new", "failed", actor="test", reason="broken")
            assert [record.state async for record in streams[0]] == ["failed"]
            for stream in streams:
                await stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(run())


def test_another_gateways_registration_is_looked_at_once_a_second(tmp_path: Path) -> None:
    async def run() -> None:
        with open_data_folder(tmp_path) as data:
            data.registry.put_model(models.tiny_spec(), None, actor="test")
            data.registry.add_variant(
                model="tiny", name="new", artifact_digest="a" * 64, actor="test", reason="test"
            )
            registration = elsewhere(data)
            looks: list[str] = []
            data.database.on_done = lambda op, seconds: looks.append(op)
            asyncio.get_running_loop().call_later(1.5 * LOOK_S, registration.leave)
            steps = [step.state async for step in await registration.follow("tiny", "new")]
            assert steps == ["registered"] * 3
            assert looks == ["read"] * 3

    asyncio.run(run())
