"""More work than the workers can do: who is served, who is refused, and how soon it is over.

`GEARSHIFT_TEST_LOAD_S` sets how long each load lasts (3; nightly 60).
"""

import asyncio
import contextlib
import os
import re
import resource
import signal
import socket
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace

import httpx
import pytest

from tests import models, world
from tests.calls import Caller, Reply
from tests.faults.gateways import BODY, infer, pin, serving, until
from tests.faults.table import drilled
from tests.ladder import Ladder
from variants.data_folder import open_data_folder

LOAD_S = float(os.environ.get("GEARSHIFT_TEST_LOAD_S", "3"))
PATIENT = {"model": "patient", "inputs": [30.0]}
"""Thirty multiplications, alone in its batch."""

HEAVY = {"model": "heavy", "inputs": [1.0, 2.0, 3.0, 4.0]}
"""Always the same hundred and fifty, alone, too."""


@pytest.fixture(scope="module")
def two(built_ladder: Ladder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[world.Gateway]:
    """One worker for a quick model, one that is as slow as it is asked, and a heavy one."""
    folder = tmp_path_factory.mktemp("two")
    ladder = built_ladder.copy(folder / "data")
    with open_data_folder(ladder.root) as data:
        slow = models.patient_onnx(folder / "patient.onnx")
        world.publish(data, models.patient_spec(), None, {"only": slow})
        heavy = models.slow_onnx(folder / "heavy.onnx", iterations=150)
        spec = replace(models.tiny_spec("heavy"), labels=(), max_batch=1)
        world.publish(data, spec, None, {"only": heavy})
    # The callers are on the same cores: the worker may go where there is room.
    with serving(ladder, GEARSHIFT_PIN_WORKERS="false") as gateway:
        yield gateway


def quantile(replies: Sequence[Reply], q: float) -> float:
    """Seconds at this quantile, from 0 to 1."""
    return sorted(reply.seconds for reply in replies)[min(len(replies) - 1, int(q * len(replies)))]


async def steady(gateway: world.Gateway, *, per_s: float, for_s: float) -> list[Reply]:
    """Requests to the quick model, one after another at a steady rate."""
    async with Caller(gateway.port, gateway.key) as caller:
        replies, begun = [], time.monotonic()
        while (now := time.monotonic()) < begun + for_s:
            replies.append(await caller.infer(BODY, {"Infer-Variants": "fast"}))
            await asyncio.sleep(max(0.0, now + 1 / per_s - time.monotonic()))
        return replies


@contextlib.asynccontextmanager
async def saturated(gateway: world.Gateway, connections: int) -> AsyncIterator[list[Reply]]:
    """The slow model asked by so many at once, as urgently as can be, until the block ends."""
    replies: list[Reply] = []
    done = asyncio.Event()

    async def act() -> None:
        async with Caller(gateway.port, gateway.key) as caller:
            while not done.is_set():
                headers = {"Priority": "u=0", "Infer-Max-Latency-Ms": "5000"}
                replies.append(await caller.infer(PATIENT, headers))

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(act())
        await asyncio.sleep(0.5)
        yield replies
        done.set()


def test_a_saturated_model_moves_another_by_no_more_than_an_allowance_and_two_runs(
    two: world.Gateway,
) -> None:
    async def drill() -> tuple[list[Reply], list[Reply], list[Reply]]:
        await steady(two, per_s=50, for_s=0.5)
        alone = await steady(two, per_s=20, for_s=LOAD_S)
        async with saturated(two, 12) as busy:
            beside = await steady(two, per_s=20, for_s=LOAD_S)
        return alone, beside, busy

    alone, beside, busy = asyncio.run(drill())
    runs = [
        float(r.headers["server-timing"].split("run;dur=")[1].split(",")[0])
        for r in busy
        if r.status == 200
    ]
    run_s = sorted(runs)[int(0.99 * len(runs))] / 1000
    before_s, during_s = quantile(alone, 0.99), quantile(beside, 0.99)
    limit_s = before_s + 0.05 + 2 * run_s + 0.02
    drilled(
        "W10",
        "one model saturated by 12 urgent callers, another asked 20 times a second",
        {
            "asked": len(beside),
            "failed": sum(r.status != 200 for r in beside),
            "p99 alone ms": round(before_s * 1000, 1),
            "p99 beside ms": round(during_s * 1000, 1),
            "saturated run p99 ms": round(run_s * 1000, 1),
            "saturated median ms": round(statistics.median(r.seconds for r in busy) * 1000, 1),
        },
    )
    assert {reply.status for reply in beside} == {200}
    # The saturated one waits in its own queue.
    assert statistics.median(r.seconds for r in busy) > 4 * statistics.median(runs) / 1000
    assert during_s <= limit_s


async def open_loop(
    gateway: world.Gateway,
    body: object,
    headers: Mapping[str, str],
    *,
    per_s: float,
    for_s: float,
) -> list[Reply]:
    """Requests at a steady rate, whatever comes back, each on a connection that is free."""
    free: list[Caller] = []
    replies: list[Reply] = []

    async def one(at: float) -> None:
        caller = free.pop() if free else Caller(gateway.port, gateway.key)
        reply = await caller.infer(body, headers)
        free.append(caller)
        replies.append(
            Reply(
                status=reply.status,
                headers=reply.headers,
                body=reply.body,
                sent_s=at,  # what it should have been: a late sender hides no waiting
                done_s=reply.done_s,
            )
        )

    begun = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(int(per_s * for_s)):
            at = begun + number / per_s
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            group.create_task(one(at))
    for caller in free:
        await caller.close()
    return replies


def counter(client: httpx.Client, name: str, *labels: str) -> float:
    """The sum of a counter's series that have these labels."""
    total = 0.0
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(name) and all(label in line for label in labels):
            total += float(line.rsplit(" ", 1)[1])
    return total


@pytest.mark.slow
def test_ten_times_the_capacity_costs_no_goodput_and_is_over_in_five_seconds(
    two: world.Gateway,
) -> None:
    async def drill() -> None:
        async with Caller(two.port, two.key) as caller:
            for _ in range(10):  # the estimates learn how long this takes beside other programs
                await caller.infer(HEAVY)
            idle = [await caller.infer(HEAVY) for _ in range(30)]
        unloaded_s = quantile(idle, 0.99)
        async with saturating(two, HEAVY) as saturated:
            await asyncio.sleep(LOAD_S)
        peak_per_s = sum(r.status == 200 for r in saturated) / LOAD_S
        limit_s = 2 * unloaded_s
        headers = {"Infer-Max-Latency-Ms": f"{limit_s * 1000:.0f}"}
        watched = asyncio.create_task(watch(two))
        replies = await open_loop(two, HEAVY, headers, per_s=10 * peak_per_s, for_s=LOAD_S)
        ended = time.monotonic()
        seen = await watched
        async with Caller(two.port, two.key) as caller:
            while (last := await caller.infer(HEAVY)).status != 200 or last.seconds > limit_s:
                assert time.monotonic() - ended < 5
            recovered_s = time.monotonic() - ended
        good = [r for r in replies if r.status == 200]
        refused = [r for r in replies if r.status == 503]
        in_load_s = max(r.done_s for r in replies) - min(r.sent_s for r in replies)
        goodput = len(good) / in_load_s / peak_per_s
        busy = sum(map(_run_s, good)) / in_load_s
        statuses = Counter(r.status for r in replies)
        drilled(
            "O1",
            f"10 times the capacity for {LOAD_S:g} s, open loop",
            {
                "sent": len(replies),
                **{str(status): number for status, number in sorted(statuses.items())},
                "goodput / peak": round(goodput, 3),
                "worker busy with answered": round(busy, 3),
                "p99 unloaded ms": round(unloaded_s * 1000, 1),
                "p99 answered ms": round(quantile(good, 0.99) * 1000, 1),
                "p99 refused ms": round(quantile(refused, 0.99) * 1000, 1),
                "recovered s": round(recovered_s, 2),
            },
        )
        drilled(
            "O9",
            "health and metrics asked during O1",
            {"asked": len(seen), "failed": 0, "slowest ms": round(max(seen) * 1000, 1)},
        )
        assert set(statuses) <= {200, 503, 504}
        # Where the callers take cores from the worker, it runs slower than at the peak.
        assert max(goodput, busy) >= 0.9
        assert statuses[504] < 0.1 * len(replies)
        assert all(int(r.headers["retry-after"]) >= 1 for r in refused)
        assert max(map(_queued_s, good)) <= limit_s  # whoever could not make it was not run
        assert max(seen) < 0.5

    asyncio.run(drill())


@contextlib.asynccontextmanager
async def saturating(gateway: world.Gateway, body: object) -> AsyncIterator[list[Reply]]:
    """Four callers that ask without a pause, until the block ends."""
    replies: list[Reply] = []
    done = asyncio.Event()

    async def act() -> None:
        async with Caller(gateway.port, gateway.key) as caller:
            while not done.is_set():
                replies.append(await caller.infer(body))

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(act())
        yield replies
        done.set()


async def watch(gateway: world.Gateway) -> list[float]:
    """Ask for health and metrics during the load; seconds that each took."""
    took = []
    async with Caller(gateway.port, gateway.key) as caller:
        end = time.monotonic() + LOAD_S
        while time.monotonic() < end:
            for path in ("/healthz", "/readyz", "/metrics"):
                reply = await caller.ask("GET", path)
                assert reply.status == 200
                took.append(reply.seconds)
            await asyncio.sleep(0.1)
    return took


@pytest.fixture(scope="module")
def short(
    built_ladder: Ladder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[world.Gateway]:
    """A gateway whose queue holds eight requests and 2 KiB."""
    ladder = built_ladder.copy(tmp_path_factory.mktemp("short") / "data")
    with serving(ladder, GEARSHIFT_QUEUE_LIMIT="8", GEARSHIFT_MAX_QUEUE_BYTES="2048") as gateway:
        yield gateway


@contextlib.contextmanager
def stopped(gateway: world.Gateway) -> Iterator[None]:
    """The worker does nothing meanwhile."""
    (worker,) = gateway.workers()
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


async def ask_all(
    gateway: world.Gateway, asked: Sequence[tuple[object, Mapping[str, str]]]
) -> list["asyncio.Task[Reply]"]:
    """Send them one after another, each on a connection of its own, and do not wait."""

    async def one(body: object, headers: Mapping[str, str]) -> Reply:
        async with Caller(gateway.port, gateway.key) as caller:
            return await caller.infer(body, headers)

    tasks = []
    for body, headers in asked:
        tasks.append(asyncio.create_task(one(body, headers)))
        await asyncio.sleep(0.02)
    return tasks


@pytest.mark.option("queue_limit")
def test_a_full_queue_refuses_and_what_expires_in_it_is_never_run(short: world.Gateway) -> None:
    async def drill() -> list[Reply]:
        with stopped(short):
            first = await ask_all(short, [(BODY, {})])  # the worker has this one
            waiting = await ask_all(short, [(BODY, {"Infer-Max-Latency-Ms": "500"})] * 8)
            beyond = await ask_all(short, [(BODY, {})] * 8)
            await asyncio.sleep(0.6)
        return list(await asyncio.gather(*first, *waiting, *beyond))

    runs = "gearshift_batch_size_sum"
    with short.client() as client:
        before = counter(client, runs)
        replies = asyncio.run(drill())
        statuses = Counter(reply.status for reply in replies)
        ran = counter(client, runs) - before
        drilled(
            "O2",
            "8 wait for a stopped worker until they expire, 8 more arrive",
            {"refused 503": statuses[503], "expired 504": statuses[504], "rows run": ran},
        )
    assert statuses == {200: 1, 504: 8, 503: 8}
    assert ran == 1
    assert all(int(r.headers["retry-after"]) >= 1 for r in replies if r.status == 503)


def test_more_urgent_requests_take_the_place_of_less_urgent_ones_that_wait(
    short: world.Gateway,
) -> None:
    async def drill() -> tuple[list[Reply], list[Reply]]:
        with stopped(short):
            idle = await ask_all(short, [(BODY, {"Priority": "u=5"})] * 9)
            urgent = await ask_all(short, [(BODY, {"Priority": "u=1"})] * 3)
        return list(await asyncio.gather(*idle)), list(await asyncio.gather(*urgent))

    idle, urgent = asyncio.run(drill())
    assert [reply.status for reply in urgent] == [200] * 3
    assert Counter(reply.status for reply in idle) == {200: 6, 503: 3}
    given_up = [reply for reply in idle if reply.status == 503]
    assert {reply.json["code"] for reply in given_up} == {"shed"}
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in given_up)


def test_best_effort_is_refused_first_and_taken_again_afterwards(short: world.Gateway) -> None:
    async def drill() -> list[Reply]:
        with stopped(short):
            waiting = await ask_all(short, [(BODY, {})] * 5)
            best_effort = await ask_all(short, [(BODY, {"Priority": "u=7"}), (BODY, {})])
        await asyncio.gather(*waiting)
        return list(await asyncio.gather(*best_effort))

    refused, taken = asyncio.run(drill())
    assert (refused.status, refused.json["code"]) == (503, "overloaded")
    assert "urgency 7" in refused.json["detail"]
    assert taken.status == 200
    with short.client() as client:
        rung = re.compile(r'gearshift_overload_rung\{model="gears"\} 0')
        until(lambda: rung.search(client.get("/metrics").text))
        assert infer(client, priority="u=7").status_code == 200


@pytest.mark.option("max_queue_bytes")
def test_large_bodies_are_refused_first_where_memory_is_short(short: world.Gateway) -> None:
    rows = [[1.0, 2.0, 3.0, 4.0]]
    large, small = {"model": "gears", "inputs": rows * 32}, BODY  # 512 and 16 bytes of tensors

    async def drill() -> list[Reply]:
        with stopped(short):
            first = await ask_all(short, [(large, {})] * 3)
            second = await ask_all(short, [(large, {}), (small, {}), (large, {}), (small, {})])
        return list(await asyncio.gather(*first, *second))

    replies = asyncio.run(drill())
    statuses = [reply.status for reply in replies]
    drilled(
        "O8",
        "1,536 of 2,048 bytes wait; bodies of 512 and of 16 arrive",
        {"large refused": statuses.count(503), "small answered": statuses[4::2].count(200)},
    )
    assert statuses == [200, 200, 200, 503, 200, 503, 200]
    assert {replies[3].json["code"], replies[5].json["code"]} == {"queue-full"}


def test_a_flood_of_best_effort_starves_nobody(two: world.Gateway) -> None:
    async def drill() -> tuple[list[Reply], list[Reply]]:
        body = {"model": "patient", "inputs": [15.0]}
        done = asyncio.Event()
        flood: list[Reply] = []

        async def act() -> None:
            async with Caller(two.port, two.key) as caller:
                while not done.is_set():
                    flood.append(await caller.infer(body, {"Priority": "u=7"}))

        async with asyncio.TaskGroup() as group:
            for _ in range(18):
                group.create_task(act())
            await asyncio.sleep(0.5)
            live: list[Reply] = []
            async with Caller(two.port, two.key) as caller:
                end = time.monotonic() + LOAD_S
                while time.monotonic() < end:
                    live.append(await caller.infer(body, {"Priority": "u=3"}))
                    await asyncio.sleep(0.02)
            done.set()
        return flood, live

    flood, live = asyncio.run(drill())
    waited = sorted(_queued_s(reply) for reply in live)
    run_s = max(_run_s(reply) for reply in [*flood, *live] if reply.status == 200)
    drilled(
        "O3",
        "18 callers of best effort beside one live caller",
        {
            "live": len(live),
            "live failed": sum(r.status != 200 for r in live),
            "live p99 wait ms": round(waited[int(0.99 * len(waited))] * 1000, 1),
            "best effort": len(flood),
        },
    )
    assert {reply.status for reply in live} == {200}
    assert waited[int(0.95 * len(waited))] < run_s + 0.02  # the run that had begun, no more


def _run_s(reply: Reply) -> float:
    return float(reply.headers["server-timing"].split("run;dur=")[1].split(",")[0]) / 1000


def _queued_s(reply: Reply) -> float:
    return float(reply.headers["server-timing"].split("queue;dur=")[1].split(",")[0]) / 1000


def test_when_files_run_out_connections_wait_and_nothing_breaks(ladder: Ladder) -> None:
    with serving(ladder) as gateway, gateway.client() as client:
        assert infer(client, **pin("fast")).status_code == 200  # a connection that is kept
        used = len(os.listdir(f"/proc/{gateway.process.pid}/fd"))  # noqa: PTH208
        _, hard = resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (used + 20, hard))
        crowd = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(60)]
        time.sleep(0.5)
        answered = [infer(client, **pin("fast")).status_code for _ in range(20)]
        for connection in crowd:
            connection.close()
        resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (hard, hard))
        with gateway.client() as fresh:
            again_s = until(lambda: infer(fresh, **pin("fast")).status_code == 200)
        drilled(
            "O6",
            "60 connections where 20 files are left",
            {"kept connection answered": answered.count(200), "again s": round(again_s, 2)},
        )
        assert answered == [200] * 20
        assert again_s < 5
        assert gateway.process.poll() is None


def test_bodies_on_their_way_are_bounded_and_small_ones_pass(two: world.Gateway) -> None:
    head = (
        f"POST /infer HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {two.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {32 << 20}\r\n\r\n{{"
    ).encode()

    async def upload() -> tuple[asyncio.StreamWriter, bytes]:
        """Announce 32 MiB and send one byte; what comes back within half a second."""
        reader, writer = await asyncio.open_connection("127.0.0.1", two.port)
        writer.write(head)
        try:
            async with asyncio.timeout(0.5):
                return writer, await reader.readline()
        except TimeoutError:
            return writer, b""

    async def crowd() -> tuple[int, int]:
        uploads = await asyncio.gather(*(upload() for _ in range(12)))
        async with Caller(two.port, two.key) as caller:
            small = [await caller.infer(BODY) for _ in range(10)]
        for writer, _ in uploads:
            writer.close()
        assert {reply.status for reply in small} == {200}
        refused = [line for _, line in uploads if line]
        assert all(line.startswith(b"HTTP/1.1 503") for line in refused)
        return len(uploads) - len(refused), len(refused)

    taken, refused = asyncio.run(crowd())
    assert 4 <= taken <= 8
    assert refused == 12 - taken
    drilled(
        "O8",
        "12 callers announce 32 MiB each where 256 MiB may be on their way",
        {"waited for": taken, "refused": refused, "small answered": 10},
    )
    assert asyncio.run(crowd()) == (taken, refused)  # the room came back


@pytest.mark.slow
def test_what_cannot_be_in_time_beside_another_busy_model_is_refused_at_once(
    two: world.Gateway,
) -> None:
    async def drill() -> dict[str, Counter[int]]:
        async with Caller(two.port, two.key) as caller:
            took = [await caller.infer(HEAVY) for _ in range(20)]
        run_s = statistics.median(map(_run_s, took))
        headers = {"Infer-Max-Latency-Ms": f"{12_000 * run_s:.0f}"}
        async with saturating(two, {"model": "patient", "inputs": [150.0]}):
            replies = await open_loop(two, HEAVY, headers, per_s=3 / run_s, for_s=LOAD_S)
        return {"heavy": Counter(reply.status for reply in replies)}

    found = asyncio.run(drill())["heavy"]
    drilled(
        "O1",
        "3 times the capacity beside another busy model, deadline of 12 runs",
        {str(status): number for status, number in sorted(found.items())},
    )
    assert set(found) <= {200, 503, 504}
    assert found[504] < 0.5 * found[200]
