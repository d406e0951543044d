"""Workers are kept within their limits, start honestly and inherit nothing."""

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.engine.limits import share_out, usable_cores
from tests import ladder as ladders
from tests import world
from tests.calls import Caller, Reply
from tests.faults.gateways import ROW, infer, lost, pin, serving, until
from tests.faults.table import drilled
from tests.ladder import MODEL, Ladder
from variants.data_folder import open_data_folder

LIMIT_BYTES = 180 << 20
LEAKS = int(os.environ.get("GEARSHIFT_TEST_LEAKS", "200"))


@pytest.fixture(scope="module")
def limited(
    built_ladder: Ladder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[world.Gateway]:
    """A gateway whose worker may hold little memory, with two variants that leak."""
    ladder = built_ladder.copy(tmp_path_factory.mktemp("limited") / "data")
    with open_data_folder(ladder.root) as data:
        ladders.publish_fake(data, "leaky", fault="leak", fault_above=0)
        ladders.publish_fake(data, "littering", fault="files", fault_above=0)
        ladders.publish_fake(data, "hungry", fault="memory", fault_above=1000)
    with serving(ladder, GEARSHIFT_WORKER_MEMORY_BYTES=str(LIMIT_BYTES)) as gateway:
        yield gateway


def gauge(client: httpx.Client, name: str) -> float:
    found = re.search(rf'{name}\{{worker="0"\}} (\S+)', client.get("/metrics").text)
    assert found is not None
    return float(found[1])


def paced(gateway: world.Gateway, variant: str, *, requests: int, per_s: float) -> list[Reply]:
    """Requests to one variant, one after another at a steady rate."""

    async def drill() -> list[Reply]:
        async with Caller(gateway.port, gateway.key) as caller:
            replies, begun = [], time.monotonic()
            for number in range(requests):
                await asyncio.sleep(max(0.0, begun + number / per_s - time.monotonic()))
                body = {"model": MODEL, "inputs": ROW}
                replies.append(await caller.infer(body, {"Infer-Variants": variant}))
            return replies

    return asyncio.run(drill())


@pytest.mark.option("worker_memory_bytes")
def test_a_worker_that_leaks_memory_is_recycled_without_a_failed_request(
    limited: world.Gateway,
) -> None:
    with limited.client() as client:
        replies = paced(limited, "leaky", requests=LEAKS, per_s=40)
        until(lambda: gauge(client, "gearshift_worker_rss_bytes") < LIMIT_BYTES)
        until(lambda: lost(client, "recycle") >= 1)
        recycled = lost(client, "recycle")
        statuses = Counter(reply.status for reply in replies)
        slowest_s = max(reply.seconds for reply in replies)
        drilled(
            "W6",
            "1 MiB leaked a request, limit 180 MiB",
            {"requests": LEAKS, "failed": LEAKS - statuses[200], "recycled": recycled},
        )
    assert statuses == {200: LEAKS}
    assert slowest_s < 1.0  # one run and a swap, on a busy machine
    assert len(limited.workers()) == 1


def test_a_worker_that_leaks_files_is_recycled_and_it_shows(limited: world.Gateway) -> None:
    with limited.client() as client:
        before = lost(client, "recycle")
        replies = paced(limited, "littering", requests=50, per_s=100)
        assert gauge(client, "gearshift_worker_open_files") > 400
        replies += paced(limited, "littering", requests=35, per_s=20)
        until(lambda: gauge(client, "gearshift_worker_open_files") < 400)
        assert {reply.status for reply in replies} == {200}
        until(lambda: lost(client, "recycle") == before + 1)
        drilled("W7", "10 files leaked a request", {"requests": 85, "failed": 0, "recycled": 1})


def test_a_batch_that_needs_more_memory_than_a_worker_has_is_503_and_the_cause_is_told(
    limited: world.Gateway,
) -> None:
    limited.wait_ready()
    with limited.client() as client:
        assert infer(client, **pin("hungry")).status_code == 200
        before = lost(client, "oom")
        broken = infer(client, [9999.0, 0.0, 0.0, 0.0], **pin("hungry"))
        assert (broken.status_code, broken.json()["code"]) == (503, "out-of-memory"), broken.text
        assert int(broken.headers["retry-after"]) >= 1
        assert infer(client).status_code == 200
        until(lambda: lost(client, "oom") == before + 1)
        drilled("W4", "1 GiB asked where 334 MiB are allowed", {"503": 1, "replaced": 1})


def test_a_slow_start_is_honest(ladder: Ladder) -> None:
    with open_data_folder(ladder.root) as data:
        ladders.publish_fake(data, "sluggish", load_s=3.0)
    env = {**ladders.ENV}
    with (
        world.gateway(ladder.root, ladder.key, env=env, ready=False) as gateway,
        gateway.client() as client,
    ):
        until(lambda: infer(client, **pin("fast")).status_code == 200)
        early = infer(client, **pin("sluggish"), infer_max_latency_ms="500")
        assert early.status_code == 503, early.text
        assert int(early.headers["retry-after"]) >= 1
        assert client.get("/readyz").status_code == 503
        waited_s = gateway.wait_ready()
        assert infer(client, **pin("sluggish")).status_code == 200
        drilled("W8", "a variant that loads for 3 s", {"503 before": 1, "200 after": 1})
        assert waited_s > 0.5


def open_files(pid: int) -> dict[int, str]:
    """What each file descriptor of a process leads to."""
    return {int(p.name): str(p.readlink()) for p in Path(f"/proc/{pid}/fd").iterdir()}


def test_a_worker_is_a_new_interpreter_with_nothing_inherited(limited: world.Gateway) -> None:
    limited.wait_ready()
    (worker,) = limited.workers()
    command = Path(f"/proc/{worker}/cmdline").read_bytes().split(b"\0")
    assert command[1:3] == [b"-m", b"app.engine.worker_process"]
    ours, theirs = open_files(limited.process.pid), open_files(worker)
    shared = {link for link in ours.values() if link.startswith(("socket:", "/"))}
    assert {theirs[n] for n in theirs if n > 2}.isdisjoint(shared)
    assert not any("registry" in link for link in theirs.values())
    drilled("W11", "what a worker inherits", {"workers": 1, "foreign files": 0})


def test_a_worker_is_told_no_secret(ladder: Ladder) -> None:
    """Wherever they are kept: options, a pepper by any name, passwords of servers."""
    secret = "0123456789abcdef" * 4
    secrets = {"SHARED_PEPPER": secret, "AWS_SECRET_ACCESS_KEY": secret, "PGPASSWORD": secret}
    settings = {"GEARSHIFT_PEPPER": "env:SHARED_PEPPER", "LC_MEASUREMENT": "C", **secrets}
    with world.gateway(ladder.root, "", env=settings) as gateway:
        for worker in gateway.workers():
            variables = Path(f"/proc/{worker}/environ").read_bytes()
            assert secret.encode() not in variables and b"GEARSHIFT_" not in variables
            assert b"LC_MEASUREMENT=C\0" in variables


def test_a_worker_has_its_cores_and_limits(limited: world.Gateway) -> None:
    limited.wait_ready()
    (worker,) = limited.workers()
    (planned,) = share_out(usable_cores(), workers=1, threads=1, memory_bytes=LIMIT_BYTES)
    assert os.sched_getaffinity(worker) == set(planned.cores)
    for thread in Path(f"/proc/{worker}/task").iterdir():
        assert os.sched_getaffinity(int(thread.name)) == set(planned.cores)
    assert os.sched_getaffinity(limited.process.pid) == set(usable_cores())
    limits = Path(f"/proc/{worker}/limits").read_text()
    assert re.search(r"Max core file size\s+0 ", limits)
    assert re.search(r"Max open files\s+1024 ", limits)
    assert re.search(rf"Max data size\s+{LIMIT_BYTES * 3 // 2 + (64 << 20)} ", limits)


@pytest.mark.option("pin_workers")
def test_unpinned_workers_may_run_anywhere(ladder: Ladder) -> None:
    with serving(ladder, GEARSHIFT_PIN_WORKERS="false") as gateway:
        (worker,) = gateway.workers()
        assert os.sched_getaffinity(worker) == set(usable_cores())


@pytest.mark.parametrize(
    ("cores", "workers", "threads", "found"),
    [
        ((0, 1, 2, 3), 3, 1, [(1,), (2,), (3,)]),
        ((0, 1, 2, 3, 4), 2, 2, [(1, 2), (3, 4)]),
        ((4, 7), 1, 1, [(7,)]),
        ((0,), 2, 1, [(0,), (0,)]),
        ((0, 1, 2), 4, 1, [(1,), (2,), (1,), (2,)]),
        ((0, 1, 2), 1, 8, [(1, 2)]),
        ((), 2, 1, [(), ()]),
    ],
)
def test_cores_are_shared_out_and_the_first_is_left_to_http(
    cores: tuple[int, ...], workers: int, threads: int, found: list[tuple[int, ...]]
) -> None:
    limits = share_out(cores, workers=workers, threads=threads, memory_bytes=None)
    assert [limit.cores for limit in limits] == found
