"""The network between a gateway and PostgreSQL falls silent or slow, or its server hangs (D4).

Nothing is closed and nothing is refused: what is sent just has no answer.
"""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import httpx
import psycopg
import pytest

from tests import ladder as ladders
from tests import servers, world
from tests.faults.gateways import infer, until
from tests.faults.table import drilled
from tests.ladder import MODEL, Ladder
from tests.network import Network, network, wire
from variants.data_folder import open_data_folder
from variants.database import Database
from variants.errors import RegistryUnavailable
from variants.postgres import MARGIN_S, QUICKEST_S, Postgres
from variants.silence import PAUSE_S

SILENCES = int(os.environ.get("GEARSHIFT_TEST_SILENCES", "1"))
TIMEOUT_S = 0.5
SLACK_S = 4.0
"""For a busy machine."""

TOLD_S = TIMEOUT_S + MARGIN_S + SLACK_S
ANSWERED_S = TOLD_S + QUICKEST_S
BACK_S = QUICKEST_S + 2 * PAUSE_S + SLACK_S
"""A try that began before the network was back has to be given up."""

ADMINS = 9
DELAY_S = 0.03


@dataclass
class Asked:
    """What callers were answered."""

    statuses: list[int] = field(default_factory=list)
    slowest_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A gateway and its database; `url` goes around the network between them."""

    gateway: world.Gateway
    root: Path
    url: str


@contextlib.contextmanager
def serving(ladder: Ladder, root: Path, url: str, host: str) -> Iterator[Served]:
    """A gateway that reaches its database at `host`."""
    copy = ladder.copy(root)
    world.move_to_postgres(copy.root, url)
    env = {
        **ladders.ENV,
        "GEARSHIFT_WORKERS": "1",
        "GEARSHIFT_DATABASE_TIMEOUT_S": str(TIMEOUT_S),
        "GEARSHIFT_DATABASE_URL": at(host, url),
    }
    with world.gateway(copy.root, copy.key, env=env) as gateway:
        yield Served(gateway=gateway, root=copy.root, url=url)
    assert "Traceback" not in "".join(gateway.log)
    assert gateway.process.returncode == 0


def at(host: str, url: str) -> str:
    """The address of a database at another host."""
    return url.partition("?")[0].replace("@", f"@{host}")


@pytest.fixture(scope="module")
def between(postgres: servers.Postgres) -> Iterator[Network]:
    with network(postgres.socket) as found:
        yield found


@pytest.fixture(scope="module")
def served(
    built_ladder: Ladder,
    postgres: servers.Postgres,
    between: Network,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("network") / "data"
    with serving(built_ladder, root, postgres.database(), f"127.0.0.1:{between.port}") as found:
        yield found


@contextlib.contextmanager
def calling(gateway: world.Gateway) -> Iterator[Asked]:
    """One request after the other; each must be answered."""
    asked, over = Asked(), threading.Event()

    def call() -> None:
        with gateway.client() as client:
            while not over.wait(0.01):
                start = time.monotonic()
                asked.statuses.append(infer(client).status_code)
                asked.slowest_s = max(asked.slowest_s, time.monotonic() - start)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield asked
    finally:
        over.set()
        thread.join()
    assert set(asked.statuses) == {200}, asked


def make_key(client: httpx.Client) -> httpx.Response:
    return client.post("/v1/keys", json={"name": "new", "scopes": ["infer"]})


WRITES: tuple[Callable[[httpx.Client], httpx.Response], ...] = (
    make_key,
    lambda client: client.post(f"/v1/models/{MODEL}/variants/mid/deactivate"),
    lambda client: client.put(f"/v1/models/{MODEL}/reference", json={"variant": "best"}),
)


def gauge(client: httpx.Client, name: str) -> float:
    text = client.get("/metrics").text
    (line,) = [line for line in text.splitlines() if line.startswith(f"gearshift_{name} ")]
    return float(line.split()[1])


def trouble(client: httpx.Client) -> str | None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    found: str | None = answer.json()["registry"]
    return found


def elsewhere(served: Served) -> str:
    """A key that is made where the network is not between."""
    with open_data_folder(served.root, database_url=served.url) as data:
        return world.make_key(data, "infer")


def test_a_network_that_loses_its_connections_stops_admins_only(
    served: Served, between: Network
) -> None:
    fall_silent(served, "network swallows everything, its connections dead for good", between)


@pytest.mark.skipif(SILENCES == 1, reason="of the long form")
def test_a_server_that_hangs_stops_admins_only(served: Served, postgres: servers.Postgres) -> None:
    class Stopped:
        def fall_silent(self) -> None:
            postgres.signal_all(signal.SIGSTOP)

        def heal(self) -> None:
            postgres.signal_all(signal.SIGCONT)

    try:
        fall_silent(served, "PostgreSQL's processes stopped (SIGSTOP)", Stopped(), hangs=True)
    finally:
        Stopped().heal()


@pytest.mark.skipif(SILENCES == 1, reason="of the long form")
def test_packets_that_go_nowhere_stop_admins_only(built_ladder: Ladder, tmp_path: Path) -> None:
    with (
        wire() as far,
        servers.postgres("fsync=off", f"listen_addresses={far.far}", within=far.within) as server,
    ):
        with (server.folder / "data" / "pg_hba.conf").open("a") as allowed:
            allowed.write(f"host all all {far.near}/32 trust\n")
        server.sql("SELECT pg_reload_conf()")
        with serving(built_ladder, tmp_path / "data", server.database(), far.far) as served:
            fall_silent(served, "packets to and from PostgreSQL's machine go nowhere", far)


class Falls(Protocol):
    """What lies between a gateway and its database."""

    def fall_silent(self) -> None:
        """Nothing is answered any more."""

    def heal(self) -> None:
        """What is asked from now on is answered."""


def fall_silent(served: Served, what: str, between: Falls, *, hangs: bool = False) -> None:
    """Let it happen often; what was written meanwhile elsewhere must be seen afterwards.

    While the server `hangs`, nobody writes anything.
    """
    told_s, answered_s, back_s, new_s = [0.0], [0.0], [0.0], [0.0]

    def refused(client: httpx.Client, number: int) -> None:
        start = time.monotonic()
        answer = WRITES[number % len(WRITES)](client)
        answered_s.append(time.monotonic() - start)
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) >= 1

    with (
        served.gateway.client() as client,
        calling(served.gateway) as asked,
        ThreadPoolExecutor(ADMINS) as pool,
    ):
        for _ in range(SILENCES):
            assert make_key(client).status_code == 201
            between.fall_silent()
            writes = [pool.submit(refused, client, number) for number in range(ADMINS)]
            told_s.append(until(lambda: "unreachable since" in str(trouble(client)), TOLD_S))
            for write in writes:
                write.result()
            assert gauge(client, "registry_up") == 0
            start = time.monotonic()
            refused(client, 0)
            assert time.monotonic() - start < TOLD_S
            key = served.gateway.key if hangs else elsewhere(served)
            with served.gateway.client(key) as stranger:
                assert infer(stranger).status_code == (200 if hangs else 401)
                between.heal()
                back_s.append(until(lambda: trouble(client) is None, BACK_S))
                new_s.append(
                    until(lambda stranger=stranger: infer(stranger).status_code == 200, 1 + SLACK_S)
                )
            assert make_key(client).status_code == 201
            assert gauge(client, "registry_up") == 1
    assert max(answered_s) < ANSWERED_S
    drilled(
        "D4",
        f"{what}, timeout {TIMEOUT_S:g} s",
        {
            "silences": SILENCES,
            "infer 200": len(asked.statuses),
            "infer refused": 0,
            "slowest infer ms": round(asked.slowest_s * 1000),
            "admin writes 503": len(answered_s) - 1,
            "slowest 503 s": round(max(answered_s), 2),
            "told after s": round(max(told_s), 2),
            "healed after s": round(max(back_s), 2),
            "a change made meanwhile seen after s": round(max(back_s) + max(new_s), 2),
        },
    )


def test_a_slow_network_slows_admins_only(served: Served, between: Network) -> None:
    with served.gateway.client() as client, calling(served.gateway) as asked:
        between.delay_s = DELAY_S
        start = time.monotonic()
        try:
            assert make_key(client).status_code == 201
            assert trouble(client) is None
        finally:
            between.delay_s = 0.0
        took_s = time.monotonic() - start
    drilled(
        "D4",
        f"each piece to and from PostgreSQL takes {DELAY_S * 1000:g} ms",
        {
            "admin writes 201": 1,
            "one takes s": round(took_s, 2),
            "infer 200": len(asked.statuses),
            "infer refused": 0,
            "slowest infer ms": round(asked.slowest_s * 1000),
        },
    )


def test_whoever_listens_or_holds_a_name_finds_a_silent_server_out(
    postgres: servers.Postgres,
) -> None:
    url = postgres.database()
    with network(postgres.socket) as between:
        other, near = Database(url), Database(at(f"127.0.0.1:{between.port}", url), timeout_s=0.2)
        assert near.claims.take("a") is not None
        listening = threading.Event()

        assert isinstance(near.backend, Postgres)

        async def listen() -> float:
            notices = near.backend.notices()
            await anext(notices)
            listening.set()
            start = time.monotonic()
            with pytest.raises(psycopg.Error):
                while True:
                    await anext(notices)
            return time.monotonic() - start

        with ThreadPoolExecutor(1) as pool:
            listener = pool.submit(asyncio.run, listen())
            assert listening.wait(10)
            between.fall_silent()
            start = time.monotonic()
            with pytest.raises(RegistryUnavailable):
                near.claims.take("b")
            assert time.monotonic() - start < 0.2 + MARGIN_S + SLACK_S
            assert listener.result() < 0.2 + 0.2 + MARGIN_S + SLACK_S
        between.heal()
        near.claims.renew()
        assert other.claims.take("a") is None  # the server still holds it for the dead session
        postgres.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE locktype = 'advisory' AND datname = current_database()",
            near.backend.url.database,
        )
        until(lambda: near.claims.renew() or other.claims.take("a") is None)
        near.close()
        other.close()
