"""The engine over two real worker processes with the fake runtime, without HTTP."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from app import catalog
from app.catalog import ServedModel, ServedVariant
from app.engine.batch import Answer
from app.engine.engine import Engine
from app.engine.refusals import DeadlinePassed, Draining, QueueFull
from app.engine.worker import LoadFailed, RunFailed, WorkerLost
from app.metrics import Metrics
from app.switches import Switches
from router import policies
from router.fleet import Queued
from router.rollout import PLAN
from tests import ladder as ladders
from tests import models
from variants.cost import Prices
from variants.data_folder import DataFolder, open_data_folder
from variants.database import Operation
from variants.profile import Accuracy

PRICES = Prices(core_hour_usd=1.0, gib_hour_usd=1.0)
MODEL = "tiny"
X = {"x": models.tiny_rows(1)}


@dataclass
class World:
    """A running engine over a data folder."""

    engine: Engine
    data: DataFolder

    @property
    def model(self) -> ServedModel:
        return self.engine.catalog.model(MODEL)

    def add(self, name: str, **plan: object) -> ServedVariant:
        """A new variant of the fake runtime, not yet loaded."""
        manifest = ladders.publish_fake(self.data, name, model=MODEL, **plan)  # type: ignore[arg-type]
        return catalog.served(manifest, PRICES)

    def submit(
        self, *eligible: str, within_s: float = 10.0, inputs: dict[str, np.ndarray] = X
    ) -> "asyncio.Future[Answer]":
        now = time.monotonic()
        queued = Queued(
            id=self.engine.next_id(),
            arrival_s=now,
            deadline_s=now + within_s,
            drop_late=True,
            urgency=3,
            rows=len(inputs["x"]),
            eligible=eligible,
            objective="latency",
            percentile=95,
        )
        return self.engine.submit(self.model, queued, inputs)

    async def ready(self) -> None:
        async with asyncio.timeout(20):
            while not all(slot.settled for slot in self.engine.pool.slots):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def with_engine(
    tmp_path: Path,
    story: Callable[[World], Awaitable[None]],
    *,
    workers: int = 2,
    memory_bytes: int | None = None,
) -> None:
    """Run a story over variants `a` (1 ms) and `slow` (0.3 s), in at most 60 seconds."""

    async def run(data: DataFolder) -> None:
        engine = Engine(
            store=data.store,
            policy=policies.find(policies.DEFAULT),
            metrics=Metrics(),
            workers=workers,
            threads=1,
            hang_s=5.0,
            max_queue_bytes=100,
            memory_bytes=memory_bytes,
        )
        engine.start(catalog.read(data, PRICES))
        world = World(engine=engine, data=data)
        try:
            async with asyncio.timeout(60):
                await world.ready()
                await story(world)
        finally:
            await engine.stop()

    with open_data_folder(tmp_path / "data") as data:
        data.registry.put_model(models.tiny_spec(), None, actor="test")
        ladders.publish_fake(data, "a", model=MODEL)
        ladders.publish_fake(data, "slow", model=MODEL, service_s=0.3)
        asyncio.run(run(data))


def test_a_load_that_breaks_a_worker_breaks_one_and_changes_nothing(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        second = world.engine.pool.slots[1].worker
        deadly = world.add("deadly", fault="crash")
        with pytest.raises(LoadFailed, match="crashed"):
            await world.engine.load(world.model, deadly)
        assert world.engine.pool.slots[1].worker is second
        await world.ready()
        assert all(deadly.key not in slot.loaded for slot in world.engine.pool.slots)
        assert set(world.model.variants) == {"a", "slow"}
        assert (await world.submit("a")).variant.manifest.variant == "a"

    with_engine(tmp_path, story)


def test_a_variant_is_loaded_everywhere_before_it_is_published(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        fresh = world.add("fresh")
        renewed = catalog.read_model(world.data, MODEL, PRICES)
        world.engine.publish(renewed)
        assert "fresh" not in world.model.variants
        assert world.model.others["fresh"] == "inactive"
        await world.engine.load(world.model, fresh)
        assert all(fresh.key in slot.loaded for slot in world.engine.pool.slots)
        world.engine.publish(renewed)
        assert (await world.submit("fresh")).variant.key == fresh.key
        await world.engine.retire(world.model, "fresh")
        assert all(fresh.key not in slot.loaded for slot in world.engine.pool.slots)

    with_engine(tmp_path, story)


def test_a_snapshot_without_news_keeps_what_was_worked_out(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        shown, gate = world.model, world.engine.gate(world.model)
        world.engine.publish(catalog.read_model(world.data, MODEL, PRICES))
        assert world.model is shown
        assert world.engine.gate(world.model) is gate
        world.data.registry.set_reference(MODEL, "a", actor="test")
        world.engine.publish(catalog.read_model(world.data, MODEL, PRICES))
        assert world.model is not shown
        assert world.engine.gate(world.model) is not gate

    with_engine(tmp_path, story)


def test_a_variant_that_is_back_is_known_by_its_runs_before(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        slower = world.add("slower", service_s=0.02, promised_s=0.005)
        shown = catalog.read_model(world.data, MODEL, PRICES)
        for _ in range(2):
            await world.engine.load(world.model, slower)
            world.engine.publish(shown)
            drift = {manifest.variant: ratio for manifest, ratio, _ in world.engine.drift()}
            for _ in range(20):
                await world.submit("slower")
            await world.engine.retire(world.model, "slower")
        assert drift["a"] < 3 < drift["slower"]

    with_engine(tmp_path, story)


def test_a_model_that_shows_its_present_mark_is_not_read_again(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        switches = Switches(data=world.data, engine=world.engine, metrics=Metrics(), prices=PRICES)
        await switches.set_reference(MODEL, "a", "test")
        marks = world.data.registry.marks()
        asked: list[Operation] = []
        world.data.database.on_done = lambda operation, _: asked.append(operation)
        await switches.show(MODEL, marks[MODEL])
        assert not asked
        await switches.show(MODEL)
        assert asked
        world.data.registry.set_reference(MODEL, "slow", actor="another gateway")
        await switches.show(MODEL, world.data.registry.marks()[MODEL])
        assert world.model.record.reference == "slow"
        manifest = world.model.variants["a"].manifest
        renewed = replace(manifest, accuracy=Accuracy.of(300, 400))
        world.data.store.put_manifest(renewed)
        world.data.registry.manifests_renewed(MODEL, ["a"], actor="a build")
        await switches.show(MODEL, world.data.registry.marks()[MODEL])
        assert world.model.variants["a"].manifest == renewed
        await switches.stop()

    with_engine(tmp_path, story)


def test_a_rollouts_new_version_is_published_though_nothing_else_has_changed(
    tmp_path: Path,
) -> None:
    async def story(world: World) -> None:
        world.add("trial", state="shadow")
        world.engine.publish(catalog.read_model(world.data, MODEL, PRICES))
        was = world.model.rollout
        assert was is not None
        plan = PLAN.dump_json(was.plan).decode()
        world.data.registry.replan(MODEL, "trial", plan, actor="test", reason="the same again")
        world.engine.publish(catalog.read_model(world.data, MODEL, PRICES))
        now = world.model.rollout
        assert now is not None
        assert now.version == was.version + 1
        assert was.goes_on_as(now)

    with_engine(tmp_path, story)


def test_loading_goes_on_where_a_worker_is_killed_meanwhile(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for count, slot in enumerate(world.engine.pool.slots * 2):
            assert slot.worker is not None
            slot.worker.kill("hang")
            fresh = world.add(f"fresh-{count}")
            await world.engine.load(world.model, fresh)
            await world.ready()
            assert all(fresh.key in s.loaded for s in world.engine.pool.slots)

    with_engine(tmp_path, story)


def test_a_variant_leaves_only_when_those_that_may_use_it_are_answered(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        waiting = [world.submit("slow") for _ in range(4)]
        await world.engine.retire(world.model, "slow")
        assert all(future.done() for future in waiting)
        assert {(await future).variant.manifest.variant for future in waiting} == {"slow"}
        assert set(world.model.variants) == {"a"}

    with_engine(tmp_path, story)


def test_what_waits_is_given_up_at_its_deadline_though_no_worker_is_free(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        running = [world.submit("slow"), world.submit("slow")]
        await asyncio.sleep(0.05)
        start = time.monotonic()
        with pytest.raises(DeadlinePassed):
            await world.submit("a", within_s=0.1)
        assert time.monotonic() - start < 0.2
        assert len(await asyncio.gather(*running)) == 2

    with_engine(tmp_path, story)


def test_a_caller_that_leaves_takes_its_request_out_of_the_queue(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        running = world.submit("slow")
        await asyncio.sleep(0)  # workers are fed once a turn of the loop
        leaving = world.submit("slow")
        assert world.engine.queue_depths() == {MODEL: 1}
        leaving.cancel()
        await asyncio.sleep(0)
        assert world.engine.queue_depths() == {MODEL: 0}
        start = time.monotonic()
        await running
        await world.submit("a")
        assert time.monotonic() - start < 0.5

    with_engine(tmp_path, story, workers=1)


def test_the_queue_is_bounded_in_bytes_and_room_returns(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        rows = {"x": models.tiny_rows(5)}
        first = world.submit("a", inputs=rows)
        with pytest.raises(QueueFull):
            world.submit("a", inputs=rows)
        await first
        await world.submit("a", inputs=rows)

    with_engine(tmp_path, story)


def test_after_the_close_what_waits_fails_and_nothing_more_is_taken(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        running = world.submit("slow")
        await asyncio.sleep(0)
        waiting = world.submit("slow")
        world.engine.drain()
        assert not world.engine.ready
        world.engine.close()
        with pytest.raises(Draining):
            await waiting
        with pytest.raises(Draining):
            world.submit("a")
        assert (await running).variant.manifest.variant == "slow"

    with_engine(tmp_path, story, workers=1)


def test_estimates_and_the_shown_drift_follow_what_runs_take(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        profiled = world.model.variants["a"].candidate.service[1].p50
        for _ in range(40):
            await world.submit("a")
        (found,) = (c for c in world.engine.candidates(world.model) if c.variant == "a")
        # The fake runtime sleeps a millisecond, and no sleep is exact: always a little longer.
        ratio = {m.variant: ratio for m, ratio, _ in world.engine.drift()}
        assert ratio["a"] > 1.0
        assert 1.0 <= ratio["slow"] <= ratio["a"]  # it did not run, but is on the same host
        assert found.service[1].p50 / profiled == pytest.approx(ratio["a"], rel=0.25)
        assert not any(drifted for _, _, drifted in world.engine.drift())

    with_engine(tmp_path, story)


def test_variants_come_and_go_within_a_budget_of_memory(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        def opened() -> list[str]:
            return sorted(key for slot in world.engine.pool.slots for key in slot.loaded)

        assert len(opened()) == 2  # of 1 MiB each
        fresh = world.add("fresh", fault="crash", fault_above=1000)
        await world.engine.load(world.model, fresh)
        world.engine.publish(catalog.read_model(world.data, MODEL, PRICES))
        for name in ("fresh", "slow", "fresh", "a"):
            # The gateway asks for what no worker has; here the waiting request alone does.
            assert (await world.submit(name)).variant.manifest.variant == name
        await world.engine.retire(world.model, "fresh")
        for name in ("slow", "a"):
            assert (await world.submit(name)).variant.manifest.variant == name
        assert fresh.key not in opened()
        assert len(opened()) <= 2

    with_engine(tmp_path, story, memory_bytes=2 << 20)


def test_a_variant_that_breaks_workers_does_not_stop_the_slow_loop(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        broken = world.add("broken", fault="crash", fault_above=1000)
        await world.engine.load(world.model, broken)
        world.engine.publish(catalog.read_model(world.data, MODEL, PRICES))
        poison = {"x": np.full((1, models.FEATURES), 9999, np.float32)}
        for _ in range(3):
            with pytest.raises((WorkerLost, RunFailed)):
                await world.submit("broken", inputs=poison)
        for name in ("slow", "a", "slow"):
            assert (await world.submit(name)).variant.manifest.variant == name
        assert all(broken.key not in slot.loaded for slot in world.engine.pool.slots)

    with_engine(tmp_path, story, memory_bytes=2 << 20)


def test_what_was_sent_ahead_of_a_crash_is_answered_and_not_to_blame(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for name in ("quick", "deadly"):
            plan = {"service_s": 0.02, "sizes": (1,), "fault": "crash", "fault_above": 1000}
            await world.engine.load(world.model, world.add(name, **plan))
            world.engine.publish(catalog.read_model(world.data, MODEL, PRICES))
        poison = {"x": np.full((1, models.FEATURES), 9999, np.float32)}
        (slot,) = world.engine.pool.slots
        for _ in range(3):
            await world.ready()
            doomed = world.submit("deadly", inputs=poison)
            after = [world.submit("quick") for _ in range(3)]
            with pytest.raises(WorkerLost, match="crash"):
                await doomed
            for answer in await asyncio.gather(*after):
                assert answer.variant.manifest.variant == "quick"
        await world.ready()
        assert slot.worker is not None
        kept = {name for name, v in world.model.variants.items() if v.key in slot.loaded}
        assert kept == {"a", "slow", "quick"}

    with_engine(tmp_path, story, workers=1)


@pytest.mark.parametrize(("sizes", "rows"), [((1,), [1, 1, 1]), ((1, 2, 4), [1, 2, 2])])
def test_the_next_batch_is_sent_ahead_unless_it_may_grow(
    tmp_path: Path, sizes: tuple[int, ...], rows: list[int]
) -> None:
    async def story(world: World) -> None:
        await world.engine.load(world.model, world.add("quick", service_s=0.02, sizes=sizes))
        world.engine.publish(catalog.read_model(world.data, MODEL, PRICES))
        (slot,) = world.engine.pool.slots
        answers = [world.submit("quick")]
        await asyncio.sleep(0.005)
        answers += [world.submit("quick"), world.submit("quick")]
        most = 0
        while not all(answer.done() for answer in answers):
            most = max(most, slot.in_hand)
            await asyncio.sleep(0.0005)
        assert [answer.result().batch_rows for answer in answers] == rows
        assert most == (2 if len(sizes) == 1 else 1)
        assert slot.idle

    with_engine(tmp_path, story, workers=1)


def test_a_killed_worker_costs_neither_what_ran_nor_what_was_sent_ahead(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        served = world.add("quick", service_s=0.05, promised_s=0.001, sizes=(1,))
        await world.engine.load(world.model, served)
        world.engine.publish(catalog.read_model(world.data, MODEL, PRICES))
        (slot,) = world.engine.pool.slots
        for _ in range(3):
            await world.ready()
            answers = [world.submit("quick") for _ in range(4)]
            while slot.in_hand < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.0005)
            assert slot.worker is not None
            os.kill(slot.worker.pid, signal.SIGKILL)
            for answer in await asyncio.gather(*answers):
                assert answer.variant.manifest.variant == "quick"
        assert slot.idle

    with_engine(tmp_path, story, workers=1)
