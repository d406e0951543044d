"""Three gateways on one PostgreSQL behind nginx: restarted one by one, and a promotion, under load.

No request may fail (S1).
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests import ladder as ladders
from tests import servers, world
from tests.calls import Caller, Reply
from tests.faults.table import drilled
from tests.ladder import MODEL, Ladder
from tests.servers import Nginx

REPLICAS = 3
ROUNDS = int(os.environ.get("GEARSHIFT_TEST_RESTARTS", "1"))
CALLERS = 4
PACE_S = 0.02
VARIANTS = f"/v1/models/{MODEL}/variants"
BODY = {"model": MODEL, "inputs": [1.0, 2.0, 3.0, 4.0]}
DELAY_S = 1.2
CHANGED = {"keepalive_timeout 4s": "keepalive_timeout 1s"}
"""Less than `DELAY_S`, as the shipped time is less than the delay that its comment asks for."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@dataclass
class Replicas:
    """Gateways on one data folder and one database, each at a port of its own."""

    ladder: Ladder
    url: str
    ports: tuple[int, ...]

    def __post_init__(self) -> None:
        self.env = {
            **ladders.ENV,
            "GEARSHIFT_DATABASE_URL": self.url,
            "GEARSHIFT_WORKERS": "1",
            "GEARSHIFT_PIN_WORKERS": "false",
            "GEARSHIFT_DRAIN_DELAY_S": str(DELAY_S),
        }
        self._stacks: dict[int, contextlib.ExitStack] = {}
        self.gateways: dict[int, world.Gateway] = {}

    def start(self, port: int) -> None:
        """Start the gateway of this port, and wait until it is ready."""
        stack = self._stacks[port] = contextlib.ExitStack()
        ladder = self.ladder
        running = world.gateway(ladder.root, ladder.key, "--port", str(port), env=self.env)
        self.gateways[port] = stack.enter_context(running)

    def restart(self, port: int) -> None:
        """End it as an operator would, and start it anew."""
        gateway = self.gateways[port]
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(30) == 0
        self.stop(port)
        self.start(port)

    def stop(self, port: int) -> None:
        """End it if it runs."""
        self._stacks.pop(port).close()
        log = "".join(self.gateways[port].log)
        assert "Traceback" not in log, log


@pytest.fixture
def replicas(
    built_ladder: Ladder, postgres: servers.Postgres, tmp_path: Path
) -> Iterator[Replicas]:
    servers.program("nginx")
    ladder = built_ladder.copy(tmp_path / "data")
    url = postgres.database()
    world.move_to_postgres(ladder.root, url)
    found = Replicas(ladder, url, tuple(free_port() for _ in range(REPLICAS)))
    try:
        with ThreadPoolExecutor(REPLICAS) as pool:
            list(pool.map(found.start, found.ports))
        yield found
    finally:
        for port, gateway in found.gateways.items():
            gateway.process.send_signal(signal.SIGTERM)  # the second one leaves out the delay
            found.stop(port)


def test_a_rolling_restart_and_a_promotion_under_load_fail_no_request(replicas: Replicas) -> None:
    with servers.nginx(*replicas.ports, changed=CHANGED) as nginx:
        client = httpx.Client(
            base_url=f"http://127.0.0.1:{nginx.port}",
            headers={"authorization": f"Bearer {replicas.ladder.key}"},
            timeout=60,
            trust_env=False,
        )
        with client:
            client.post(f"{VARIANTS}/mid/deactivate").raise_for_status()
            replies, promoted_s = asyncio.run(rolled(replicas, nginx, client))
        log = nginx.log()
    statuses = Counter(reply.status for reply in replies)
    assert set(statuses) == {200}, (statuses, [r.body for r in replies if r.status != 200][:3], log)
    drilled(
        "S1",
        f"{REPLICAS} gateways on one PostgreSQL behind nginx, restarted one by one; a promotion",
        {
            "restarts": REPLICAS * ROUNDS,
            "promotions": 1,
            "requests": len(replies),
            "failed": 0,
            "slowest s": round(max(reply.seconds for reply in replies), 2),
            "promoted everywhere after s": round(promoted_s, 2),
        },
    )


async def rolled(
    replicas: Replicas, nginx: Nginx, client: httpx.Client
) -> tuple[list[Reply], float]:
    """All replies of callers that never rest, and how long the promotion took to be everywhere."""
    replies: list[Reply] = []
    over = asyncio.Event()

    async def call() -> None:
        async with Caller(nginx.port, replicas.ladder.key) as caller:
            while not over.is_set():
                replies.append(await caller.infer(BODY, {"Infer-Variants": '"fast", "best"'}))
                await asyncio.sleep(PACE_S)

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(call())
        try:
            for _ in range(ROUNDS):
                for number, port in enumerate(replicas.ports):
                    await asyncio.to_thread(replicas.restart, port)
                    if number == 0:
                        promoted_s = await asyncio.to_thread(promote, replicas, client)
        finally:
            over.set()
    return replies, promoted_s


def promote(replicas: Replicas, client: httpx.Client) -> float:
    """Activate a variant through nginx, and wait until every gateway answers with it."""
    started = time.monotonic()
    state = client.get(f"{VARIANTS}/mid").json()["state"]
    if state != "active":
        client.post(f"{VARIANTS}/mid/activate").raise_for_status()
    for port in replicas.ports:
        gateway = replicas.gateways[port]
        with gateway.client() as own:
            while True:
                answer = own.post("/infer", json=BODY, headers={"Infer-Variants": '"mid"'})
                if answer.status_code == 200:
                    break
                assert answer.status_code in (409, 503), answer.text
                assert time.monotonic() - started < 30, answer.text
                time.sleep(0.02)
    return time.monotonic() - started
