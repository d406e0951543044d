"""A gateway killed, its disk cut off, its database killed: nothing acknowledged is lost (D1, D2).

Two admins and a builder change keys, variants and references, and a caller asks, while it happens.
"""

import contextlib
import hashlib
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest

from app.recovery import Recovery
from tests import ladder as ladders
from tests import servers
from tests import world as worlds
from tests.faults import nursery, replay
from tests.faults.gateways import until
from tests.faults.oracle import Notes, actual, check
from tests.faults.table import drilled
from tests.ladder import MODEL, Ladder
from variants.data_folder import DataFolder, open_data_folder

CRASHES = int(os.environ.get("GEARSHIFT_TEST_CRASHES", "6"))
PG_CRASHES = int(os.environ.get("GEARSHIFT_TEST_PG_CRASHES", "3"))
SERVER_CRASHES = int(os.environ.get("GEARSHIFT_TEST_SERVER_CRASHES", "1"))
CUTS = int(os.environ.get("GEARSHIFT_TEST_CUTS", "40"))
ROUNDS = 25
"""So many crashes one data folder lives through."""

LONGEST_S = 1.2
"""A gateway lives for at most this after its first answer, and one in five not even to that."""

SETTLED = ("active", "inactive", "failed")
VERBS = (
    ("activate", ("active",)),
    ("deactivate", ("inactive",)),
    ("canary", ("canary", "active", "inactive")),  # it may be judged meanwhile
)
ENV = {**ladders.ENV, "GEARSHIFT_WORKERS": "1"}


@dataclass
class World:
    """A data folder, the notes about it, and clients that change it."""

    root: Path
    key: str
    notes: Notes
    artifacts: Path
    url: str | None = None
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    done: Counter[str] = field(default_factory=Counter)
    number: int = 0

    @property
    def writes(self) -> int:
        """Changes that were acknowledged."""
        told = {what: n for what, n in self.done.items() if "refused" not in what}
        return sum(told.values()) - told.get("infer", 0)

    def open(self) -> "contextlib.AbstractContextManager[DataFolder]":
        return open_data_folder(self.root, database_url=self.url)

    def env(self) -> dict[str, str]:
        return ENV if self.url is None else {**ENV, "GEARSHIFT_DATABASE_URL": self.url}

    def check(self, at: int = 0) -> int:
        """Settle what was left behind, and hold what is there against the notes."""
        with self.open() as data:
            data.database.claims.patience_s = 0.0
            Recovery(data.registry, data.database.claims).settle()
            return check(data, self.notes.possible(at))

    def note_all(self) -> None:
        """Everything is as it is now."""
        with self.open() as data:
            for thing, state in actual(data).items():
                self.notes.fact(thing, state)

    @contextlib.contextmanager
    def clients(self, port: int) -> Iterator[None]:
        """Everyone at work until the end, or until the gateway is gone."""
        stop = threading.Event()
        kinds = (self._keys, self._switches, self._registers, self._infers)
        threads = [
            threading.Thread(target=self._work, args=(kind, port, stop), daemon=True)
            for kind in kinds
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)
                assert not thread.is_alive()

    def _work(
        self, step: "Callable[[httpx.Client], None]", port: int, stop: threading.Event
    ) -> None:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"authorization": f"Bearer {self.key}"},
            timeout=30,
            trust_env=False,
        ) as client:
            while not stop.is_set():
                try:
                    step(client)
                except httpx.TransportError:
                    time.sleep(0.01)  # killed, or about to be

    def _told(self, what: str, answer: httpx.Response, *allowed: int) -> bool:
        """Whether a change was acknowledged; any other answer must be one that is allowed."""
        self.done[what if answer.is_success else f"{what} refused"] += 1
        assert answer.is_success or answer.status_code in (503, *allowed), answer.text
        return answer.is_success

    def _keys(self, client: httpx.Client) -> None:
        answer = client.post("/v1/keys", json={"name": "crash", "scopes": ["infer"]})
        if not self._told("key made", answer):
            return
        id = answer.json()["key"].split("_")[1]
        self.notes.fact(f"key {id}", "valid")
        if self.chance.random() < 0.5:
            self.notes.intent(f"key {id}", "revoked")
            if self._told("key revoked", client.delete(f"/v1/keys/{id}")):
                self.notes.fact(f"key {id}", "revoked")

    def _switches(self, client: httpx.Client) -> None:
        name = self.chance.choice(("one", "two"))
        verb, states = self.chance.choice(VERBS)
        self.notes.intent(f"variant {name}", *states)
        body = {"json": {}} if verb == "canary" else {}
        answer = client.post(f"/v1/models/{MODEL}/variants/{name}/{verb}", **body)
        if self._told(verb, answer, 409, 422):
            self.notes.fact(f"variant {name}", *states)
        reference = self.chance.choice(("best", "mid", "fast"))
        self.notes.intent(f"reference {MODEL}", reference)
        answer = client.put(f"/v1/models/{MODEL}/reference", json={"variant": reference})
        if self._told("reference", answer):
            self.notes.fact(f"reference {MODEL}", reference)

    def _registers(self, client: httpx.Client) -> None:
        self.number += 1
        name = f"extra-{self.number}"
        content = ladders.onnx(self.artifacts, name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if not self._told("upload", client.put(f"/v1/blobs/{digest}", content=content)):
            return
        self.notes.fact(f"blob {digest}", "here")
        self.notes.intent(f"variant {name}", *SETTLED)
        answer = client.post(
            f"/v1/models/{MODEL}/variants",
            json={"name": name, "artifact": {"digest": digest}},
            headers={"prefer": "wait=20"},
        )
        if self._told("register", answer):
            told = answer.json()["state"]
            self.notes.fact(f"variant {name}", *([told] if told in SETTLED else SETTLED))
            if self.chance.random() < 0.4:
                self.notes.intent(f"variant {name}", "inactive", "retired")
                answer = client.post(f"/v1/models/{MODEL}/variants/{name}/retire")
                if self._told("retire", answer, 409):
                    self.notes.fact(f"variant {name}", "retired")

    def _infers(self, client: httpx.Client) -> None:
        answer = client.post("/infer", json={"model": MODEL, "inputs": [1, 2, 3, 4]})
        self._told("infer", answer)


def begin(
    ladder: Ladder,
    root: Path,
    folder: Path,
    url: str | None = None,
    clock: "Callable[[], int]" = int,
) -> World:
    copy = ladder.copy(root)
    with open_data_folder(copy.root) as data:
        for name in ("one", "two"):
            ladders.publish_fake(data, name)
    artifacts = folder / "artifacts"
    artifacts.mkdir(exist_ok=True)
    world = World(root=copy.root, key=copy.key, notes=Notes(clock), artifacts=artifacts, url=url)
    if url is not None:
        worlds.move_to_postgres(copy.root, url)
    world.note_all()
    return world


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
            until(lambda: world.done.total() > before, 30)
        time.sleep(world.chance.uniform(0.0, LONGEST_S))
        forks.kill(child)


def ready(port: int) -> None:
    """Wait until a gateway serves."""
    url, deadline = f"http://127.0.0.1:{port}/readyz", time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        time.sleep(0.02)
    raise AssertionError("not ready")


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
                    time.sleep(0.3)
                    assert world.done["infer"] > answered
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


@pytest.mark.parametrize("torn", [False, True], ids=["least", "some"])
def test_a_power_cut_at_any_moment_loses_nothing_acknowledged(
    built_ladder: Ladder, tmp_path: Path, shim: Path, torn: bool
) -> None:
    """What was not synced is dropped, all of it or a random part."""
    record = tmp_path / "record"
    record.touch()
    world = begin(built_ladder, tmp_path / "data", tmp_path, clock=lambda: record.stat().st_size)
    disk = replay.Disk(world.root)
    begun = record.stat().st_size
    env = {"LD_PRELOAD": str(shim), "FAULTS_FOLDER": str(world.root), "FAULTS_RECORD": str(record)}
    with nursery.nursery(tmp_path / "log", env) as forks:
        child = forks.start(world.root, world.env())
        with world.clients(child.port):
            ready(child.port)
            time.sleep(max(1.5, CUTS / 100))
            forks.kill(child)
    told = list(replay.changes(record.read_bytes()))
    chance = random.Random(3)
    moments = sorted(chance.sample([change.end for change in told], min(CUTS, len(told))))
    things = 0
    for change in told:
        disk.change(change)
        if change.end in moments:
            left = tmp_path / f"cut-{change.end}"
            disk.write(left, chance if torn else None)
            things += replace(world, root=left).check(change.end)
            shutil.rmtree(left)
    assert begun == 0
    drilled(
        "D2",
        f"power cut, {'some of' if torn else 'all of'} what was not synced is lost",
        {
            "cuts": len(moments),
            "changes recorded": len(told),
            "acknowledged writes": world.writes,
            "things checked": things,
            "lost or half done": 0,
        },
    )
