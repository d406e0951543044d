"""Tenants that misbehave, and gateways that die with their money (groups A and O4).

`GEARSHIFT_TEST_BAD_KEYS` sets how many keys are tried (10,000), `GEARSHIFT_TEST_SPENDERS` how often
a gateway is killed while it spends (1).
"""

import asyncio
import json
import os
import re
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests import world
from tests.calls import Caller, Reply, spread
from tests.faults.gateways import BODY, serving
from tests.faults.table import drilled
from tests.ladder import ENV, Ladder
from tests.raw import Connection, request

BAD_KEYS = int(os.environ.get("GEARSHIFT_TEST_BAD_KEYS", "10000"))
SPENDERS = int(os.environ.get("GEARSHIFT_TEST_SPENDERS", "1"))
PIPELINED = 50
BYTES = json.dumps(BODY).encode()


@pytest.fixture(scope="module")
def shared(
    built_ladder: Ladder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[world.Gateway]:
    ladder = built_ladder.copy(tmp_path_factory.mktemp("tenants") / "data")
    with serving(ladder) as gateway:
        yield gateway


def made(gateway: world.Gateway, **limits: object) -> str:
    with gateway.client() as client:
        body = {"name": "drill", "scopes": ["infer"], "limits": limits}
        return str(client.post("/v1/keys", json=body).raise_for_status().json()["key"])


async def calm(gateway: world.Gateway, seconds: float, key: str) -> list[Reply]:
    """What one caller with a valid key sees."""
    replies: list[Reply] = []

    async def act(caller: Caller) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            replies.append(await caller.infer(BODY))
            await asyncio.sleep(0.005)

    await spread(gateway.port, key, concurrency=1, act=act)
    return replies


@pytest.mark.slow
@pytest.mark.option("bad_keys_per_s")
def test_a_peer_that_tries_keys_is_told_429_and_nobody_else_notices(
    shared: world.Gateway,
) -> None:
    statuses: Counter[int] = Counter()
    took_s = 0.0

    def attack() -> None:
        nonlocal took_s
        start = time.monotonic()
        with Connection(shared.port) as connection:
            for first in range(0, BAD_KEYS, PIPELINED):
                connection.send(
                    b"".join(
                        request("POST", "/infer", BYTES, key=f"gs_{n:08x}_{'x' * 43}")
                        for n in range(first, first + PIPELINED)
                    )
                )
                for _ in range(PIPELINED):
                    answer = connection.answer()
                    assert answer is not None
                    statuses[answer.status] += 1
                    if answer.status == 429:
                        assert int(answer.headers["retry-after"]) >= 1
        took_s = time.monotonic() - start

    attacker = threading.Thread(target=attack)
    attacker.start()
    replies = asyncio.run(calm(shared, 1.0, shared.key))
    attacker.join()
    assert set(statuses) == {401, 429} and sum(statuses.values()) == BAD_KEYS
    assert statuses[401] <= 10 + 10 * took_s + 1
    assert all(reply.status == 200 for reply in replies)
    slow_s = statistics.quantiles([reply.seconds for reply in replies], n=100)[98]
    assert slow_s < 0.5
    drilled(
        "A13",
        "keys tried by one peer, as fast as it can",
        {
            "tried": BAD_KEYS,
            "a second": round(BAD_KEYS / took_s),
            "401": statuses[401],
            "429": statuses[429],
            "valid requests meanwhile": len(replies),
            "of these refused": 0,
            "p99 ms": round(slow_s * 1e3, 1),
        },
    )


@pytest.mark.slow
def test_one_tenant_beyond_its_rate_costs_no_other_one(shared: world.Gateway) -> None:
    greedy, modest = made(shared, requests_per_s=20), made(shared)
    flood: list[Reply] = []

    async def both() -> list[Reply]:
        async def act(caller: Caller) -> None:
            end = time.monotonic() + 1.0
            while time.monotonic() < end:
                flood.append(await caller.infer(BODY))

        async with asyncio.TaskGroup() as group:
            group.create_task(spread(shared.port, greedy, concurrency=4, act=act))
            others = group.create_task(calm(shared, 1.0, modest))
        return others.result()

    start = time.monotonic()
    replies = asyncio.run(both())
    took_s = time.monotonic() - start
    counts = Counter(reply.status for reply in flood)
    assert set(counts) == {200, 429}
    assert 20 <= counts[200] <= 21 + 20 * took_s
    for reply in flood:
        assert "ratelimit" in reply.headers
        assert ("retry-after" in reply.headers) == (reply.status == 429)
    assert all(reply.status == 200 for reply in replies)
    drilled(
        "O4",
        "a key with 20 requests a second sends what it can, another one goes on",
        {"sent": len(flood), "429": counts[429], "others' requests": len(replies), "refused": 0},
    )


@pytest.mark.slow
def test_a_day_has_no_more_dollars_after_any_number_of_kills(ladder: Ladder) -> None:
    """What the replies say was spent, over gateways that are killed while they spend."""
    per_day_usd = 0.0008
    share_usd = per_day_usd / 32
    spent_usd, answered, refused, key = 0.0, 0, 0, ""
    for life in range(SPENDERS + 1):
        with world.gateway(ladder.root, ladder.key, env=dict(ENV)) as gateway:
            key = key or made(gateway, usd_per_day=per_day_usd)
            end = time.monotonic() + 20
            quota = answered + 100
            pin = [("infer-variants", '"fast"')]
            wish = request("POST", "/infer", BYTES, key=key, headers=pin)
            with Connection(gateway.port) as connection:
                while time.monotonic() < end:
                    connection.send(wish)
                    answer = connection.answer()
                    assert answer is not None and answer.status in (200, 429), answer
                    if answer.status == 200:
                        answered += 1
                        cost = re.search(r"cost=([\d.]+)", answer.headers["infer-actual"])
                        assert cost is not None
                        spent_usd += float(cost[1]) / 1e6
                    elif int(answer.headers["retry-after"]) > 1:
                        refused += 1
                        break
                    else:
                        time.sleep(0.02)
                    if life < SPENDERS and answered >= quota:
                        break
            if life < SPENDERS:
                gateway.process.send_signal(signal.SIGKILL)
                gateway.process.wait()
    assert refused == 1, "the last gateway spent the day's dollars"
    dearest_usd = 2e-5
    assert spent_usd <= per_day_usd + dearest_usd
    assert spent_usd >= per_day_usd - (SPENDERS + 1) * share_usd - 0.1 * per_day_usd
    drilled(
        "O4",
        "a gateway is killed while a key spends its dollars of a day",
        {
            "kills": SPENDERS,
            "requests paid": answered,
            "of the day's dollars %": round(100 * spent_usd / per_day_usd, 1),
        },
    )
