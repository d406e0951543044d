"""A gateway killed, its database killed: nothing acknowledged is lost (D1)."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import servers
from tests.faults import nursery
from tests.faults.changing import World, begin, ready
from tests.faults.gateways import until
from tests.faults.table import drilled
from tests.ladder import Ladder

CRASHES = int(os.environ.get("GEARSHIFT_TEST_CRASHES", "6"))
PG_CRASHES = int(os.environ.get("GEARSHIFT_TEST_PG_CRASHES", "3"))
SERVER_CRASHES = int(os.environ.get("GEARSHIFT_TEST_SERVER_CRASHES", "1"))
ROUNDS = 25
"""So many crashes one data folder lives through."""

LONGEST_S = 1.2
"""A gateway lives for at most this after its first answer, and one in five not even to that."""


def kill_often(
    ladder: Ladder, tmp_path: Path, crashes: int, kind: str, url: Callable[[], str | None]
) -> None:
    """Start, let everyone work, kill at a random moment, look; again and again.

    A data folder lives through `ROUNDS` of it.
    """
    counts, begun_s = Counter[str](), time.monotonic()
    for left in range(crashes, 0, -ROUNDS):
        folder = tmp_path / str(left)
        folder.mkdir()
        world = begin(ladder, folder / "data", folder, url())
        with nursery.nursery(folder / "log") as forks:
            for _ in range(min(left, ROUNDS)):
                live_and_die(world, forks)
                counts["kills"] += 1
                counts["things checked"] += world.check()
                world.note_all()  # what was in flight is decided now
        counts["acknowledged writes"] += world.writes
        counts["requests answered"] += world.done["infer"]
        for event in ('"bug"', '"changes_not_followed"'):
            assert event not in (log := (folder / "log").read_text()), log[-4000:]
    drilled(
        "D1",
        f"kill -9 while keys, variants and references change ({kind})",
        {**counts, "lost or half done": 0, "seconds": round(time.monotonic() - begun_s)},
    )


def live_and_die(world: World, forks: nursery.Nursery) -> None:
    child = forks.start(world.root, world.env())
    with world.clients(child.port):
        if world.chance.random() < 0.8:
            before = world.done.total()
            until(lambda: world.done.total() > before, 60)
        time.sleep(world.chance.uniform(0.0, LONGEST_S))
        forks.kill(child)


def test_a_gateway_that_is_killed_loses_nothing_acknowledged(
    built_ladder: Ladder, tmp_path: Path
) -> None:
    kill_often(built_ladder, tmp_path, CRASHES, "SQLite", lambda: None)


@pytest.mark.option("database_url")
def test_a_gateway_on_postgresql_that_is_killed_loses_nothing_acknowledged(
    built_ladder: Ladder, tmp_path: Path
) -> None:
    with servers.postgres() as server:
        kill_often(built_ladder, tmp_path, PG_CRASHES, "PostgreSQL", server.database)


def test_a_postgresql_server_that_is_killed_loses_nothing_and_the_gateway_serves_on(
    built_ladder: Ladder, tmp_path: Path
) -> None:
    with servers.postgres("fsync=on") as server:
        world = begin(built_ladder, tmp_path / "data", tmp_path, server.database())
        log, things, kills = tmp_path / "log", 0, SERVER_CRASHES
        with nursery.nursery(log) as forks:
            child = forks.start(world.root, world.env())
            for _ in range(kills):
                with world.clients(child.port):
                    ready(child.port)
                    time.sleep(world.chance.uniform(0.1, LONGEST_S))
                    server.stop(signal.SIGKILL)
                    answered = world.done["infer"]
                    until(lambda answered=answered: world.done["infer"] > answered + 3)
                    server.start()
                    made = world.done["key made"]
                    until(lambda made=made: world.done["key made"] > made)
                things += world.check()
                world.note_all()
            forks.kill(child, signal.SIGTERM)
        assert world.done["infer refused"] == 0
        drilled(
            "D1",
            "kill -9 of the PostgreSQL server under a gateway",
            {
                "kills": kills,
                "acknowledged writes": world.writes,
                "requests answered": world.done["infer"],
                "requests refused": 0,
                "things checked": things,
                "lost or half done": 0,
            },
        )
