"""What happens to workers must cost the calls in flight at most.

`GEARSHIFT_TEST_KILLS` sets how often the worker is killed (20).
"""

import asyncio
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests import ladder as ladders
from tests import models, world
from tests.calls import Caller, Reply, spread
from tests.faults.gateways import BODY, ROW, infer, lost, pin, serving, until
from tests.faults.table import drilled
from tests.ladder import MODEL, Ladder
from variants.data_folder import open_data_folder

KILLS = int(os.environ.get("GEARSHIFT_TEST_KILLS", "20"))
AGAIN_S = 2.0
POISON = [9999.0, 0.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def shared(
    built_ladder: Ladder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[world.Gateway]:
    """A gateway with one worker, a short patience, and variants that break at will."""
    ladder = built_ladder.copy(tmp_path_factory.mktemp("workers") / "data")
    with open_data_folder(ladder.root) as data:
        ladders.publish_fake(data, "fragile", fault="crash", fault_above=1000)
        ladders.publish_fake(data, "crooked", fault="shape", fault_above=1000)
        ladders.publish_fake(data, "garbled", fault="garbage", fault_above=1000)
    with serving(ladder, GEARSHIFT_HANG_S="1") as gateway:
        yield gateway


@pytest.fixture
def client(shared: world.Gateway) -> Iterator[httpx.Client]:
    shared.wait_ready()
    with shared.client() as opened:
        yield opened


@pytest.mark.slow
def test_a_killed_worker_costs_no_call_and_is_back_in_two_seconds(
    shared: world.Gateway, client: httpx.Client
) -> None:
    async def drill(gateway: world.Gateway) -> tuple[list[Reply], list[float]]:
        replies: list[Reply] = []
        kills: list[float] = []
        done, answered = asyncio.Event(), asyncio.Event()

        async def act(caller: Caller) -> None:
            while not done.is_set():
                replies.append(await caller.infer(BODY))
                answered.set()

        async def next_reply() -> None:
            answered.clear()
            await answered.wait()

        async def kill() -> None:
            for _ in range(KILLS):
                enough = len(replies) + 20
                while len(replies) < enough:
                    await next_reply()
                (worker,) = gateway.workers()
                kills.append(time.monotonic())
                os.kill(worker, signal.SIGKILL)
                while not any(r.status == 200 and r.sent_s > kills[-1] for r in replies[-50:]):
                    await next_reply()
            done.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(spread(gateway.port, gateway.key, concurrency=8, act=act))
            group.create_task(kill())
        return replies, kills

    before = lost(client, "crash")
    replies, kills = asyncio.run(drill(shared))
    assert lost(client, "crash") == before + KILLS
    statuses = Counter(reply.status for reply in replies)
    again = [
        min(r.done_s for r in replies if r.status == 200 and r.sent_s > kill) - kill
        for kill in kills
    ]
    drilled(
        "W1",
        "worker killed (SIGKILL) under 8 connections",
        {
            "kills": len(kills),
            "answered": statuses[200],
            "failed": len(replies) - statuses[200],
            "again, median s": round(statistics.median(again), 2),
            "again, longest s": round(max(again), 2),
        },
    )
    assert set(statuses) == {200}  # what was in flight ran once more
    assert max(again) < AGAIN_S


def test_requests_that_arrive_while_the_worker_restarts_wait_for_it(
    shared: world.Gateway, client: httpx.Client
) -> None:
    (worker,) = shared.workers()
    os.kill(worker, signal.SIGKILL)
    until(lambda: client.get("/readyz").status_code == 503)
    hurried = infer(client, infer_max_latency_ms="20")
    patient = infer(client, infer_max_latency_ms="15000")
    assert client.get("/healthz").status_code == 200
    assert hurried.status_code == 503, hurried.text
    assert int(hurried.headers["retry-after"]) >= 1
    assert patient.status_code == 200, patient.text
    assert shared.workers() != [worker]


@pytest.mark.option("hang_s")
def test_a_worker_that_hangs_is_replaced_and_its_call_answered_with_504(
    shared: world.Gateway, client: httpx.Client
) -> None:
    before = lost(client, "hang")
    (worker,) = shared.workers()
    os.kill(worker, signal.SIGSTOP)
    hung = infer(client, **pin("fast"))
    assert (hung.status_code, hung.json()["code"]) == (504, "worker-hung")
    assert infer(client).status_code == 200
    assert shared.workers() != [worker]
    until(lambda: lost(client, "hang") == before + 1)
    drilled("W2", "worker stopped (SIGSTOP)", {"504": 1, "replaced": 1})


def test_requests_expire_in_the_queue_while_no_worker_is_free(
    shared: world.Gateway, client: httpx.Client
) -> None:
    async def stopped() -> list[Reply]:
        (worker,) = shared.workers()
        os.kill(worker, signal.SIGSTOP)
        async with Caller(shared.port, shared.key) as one, Caller(shared.port, shared.key) as two:
            running = asyncio.create_task(one.infer(BODY, {"Infer-Variants": "best"}))
            await asyncio.sleep(0.1)
            waiting = await two.infer(BODY, {"Infer-Max-Latency-Ms": "400"})
            os.kill(worker, signal.SIGCONT)
            return [waiting, await running]

    waiting, running = asyncio.run(stopped())
    assert waiting.status == 504, waiting.body
    assert waiting.seconds < 0.8
    assert running.status == 200
    assert infer(client).status_code == 200


def test_a_variant_that_breaks_its_worker_is_quarantined_and_costs_no_other(
    shared: world.Gateway, client: httpx.Client
) -> None:
    assert infer(client, **pin("fragile")).status_code == 200
    before = lost(client, "crash")
    for count in (1, 2, 3):
        shared.wait_ready()  # while it opens others, nobody could say which of them broke it
        broken = infer(client, POISON, **pin("fragile"))
        assert (broken.status_code, broken.json()["code"]) == (502, "worker-lost")
        assert infer(client, POISON, **pin("fast")).status_code == 200
        assert lost(client, "crash") == before + count
    route = client.post("/v1/route", json={"model": MODEL}).json()
    (verdict,) = (v for v in route["candidates"] if v["variant"] == "fragile")
    assert [r["bound"] for r in verdict["rejections"]] == ["blocked"]
    assert "quarantined" in verdict["rejections"][0]["detail"]
    assert infer(client, **pin("fragile")).json()["code"] == "no-healthy-variant"
    ejected = (
        f'gearshift_variant_ejections_total{{cause="crash",model="{MODEL}",variant="fragile"}}'
    )
    assert f"{ejected} 1.0" in client.get("/metrics").text
    healthy = f'gearshift_variant_healthy{{model="{MODEL}",variant="fragile"}}'
    assert f"{healthy} 0.0" in client.get("/metrics").text
    shared.wait_ready()

    retry = client.post(f"/v1/models/{MODEL}/variants/fragile/activate")
    assert retry.status_code == 200, retry.text
    assert infer(client, **pin("fragile")).status_code == 200
    assert f"{healthy} 1.0" in client.get("/metrics").text


def test_outputs_that_the_model_does_not_promise_are_502_and_the_worker_is_replaced(
    client: httpx.Client,
) -> None:
    before = lost(client, "garbage")
    broken = infer(client, POISON, **pin("crooked"))
    assert (broken.status_code, broken.json()["code"]) == (502, "run-failed")
    assert infer(client, **pin("crooked")).status_code == 200
    until(lambda: lost(client, "garbage") == before + 1)


def test_a_worker_that_answers_with_garbage_is_replaced(client: httpx.Client) -> None:
    before = lost(client, "garbage")
    broken = infer(client, POISON, **pin("garbled"))
    assert (broken.status_code, broken.json()["code"]) == (502, "worker-lost"), broken.text
    assert infer(client).status_code == 200
    until(lambda: lost(client, "garbage") == before + 1)
    drilled("W5", "worker announces a frame of 8 GiB", {"502": 1, "replaced": 1})


def test_a_variant_that_breaks_every_worker_that_loads_it_stops_no_other(ladder: Ladder) -> None:
    with open_data_folder(ladder.root) as data:
        ladders.publish_fake(data, "deadly", fault="crash")
    with serving(ladder) as gateway, gateway.client() as client:
        until(lambda: "variant_quarantined" in "".join(gateway.log), within_s=30)
        gateway.wait_ready()
        found = np.array(infer(client, **pin("best")).json()["outputs"]["logits"])
        assert np.allclose(found, models.tiny_logits(np.array([ROW], np.float32)), atol=1e-4)
        assert infer(client, **pin("deadly")).status_code == 503
        assert lost(client, "crash") == 3
        retry = client.post(f"/v1/models/{MODEL}/variants/deadly/activate")
        assert (retry.status_code, retry.json()["code"]) == (422, "load-failed")
        assert infer(client, **pin("best")).status_code == 200


def test_what_was_only_being_opened_is_not_blamed_for_what_ran(ladder: Ladder) -> None:
    """The worker breaks as it runs one variant, each time while it is still opening another."""
    with open_data_folder(ladder.root) as data:
        ladders.publish_fake(data, "bad", fault="crash", fault_above=1000)
        ladders.publish_fake(data, "sluggish", load_s=0.7)
    with serving(ladder) as gateway, gateway.client() as client:
        gateway.wait_ready()
        answers = []
        while len(answers) < 10 and "no-healthy-variant" not in answers:
            answers.append(infer(client, POISON, **pin("bad")).json()["code"])
        assert set(answers[:-1]) == {"worker-lost"}
        assert len(answers) > 4  # at least one loss could not be put down to either
        until(lambda: "variant_quarantined" in "".join(gateway.log))
        assert infer(client, **pin("bad")).json()["code"] == "no-healthy-variant"
        assert infer(client, **pin("sluggish")).status_code == 200


def test_workers_that_cannot_start_are_tried_ever_more_slowly(
    ladder: Ladder, tmp_path: Path
) -> None:
    broken = tmp_path / "path" / "sitecustomize.py"
    broken.parent.mkdir()
    broken.write_text("import sys\nif 'app.engine.worker_process' in sys.orig_argv: sys.exit(3)\n")
    with (
        world.gateway(
            ladder.root,
            ladder.key,
            env={**ladders.ENV, "PYTHONPATH": str(broken.parent)},
            ready=False,
        ) as gateway,
        gateway.client() as client,
    ):
        until(lambda: lost(client, "crash") >= 3)
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 503
        until(lambda: infer(client).status_code == 503)
        assert infer(client).headers["retry-after"]
        before, start = lost(client, "crash"), time.monotonic()
        time.sleep(1.5)
        tries = lost(client, "crash") - before
        assert tries <= 1 + (time.monotonic() - start) / 0.5
        broken.unlink()
        gateway.wait_ready()
        assert infer(client).status_code == 200
