"""Everyone who changes a registry at once, and asks meanwhile, with notes of what was acknowledged.

Two admins and a builder change keys, variants and references; a caller asks.
"""

import contextlib
import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from app.recovery import Recovery
from tests import ladder as ladders
from tests import world as worlds
from tests.faults.oracle import Notes, actual, check
from tests.ladder import MODEL, Ladder
from variants.data_folder import DataFolder, open_data_folder

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


def ready(port: int) -> None:
    """Wait until a gateway serves."""
    url, deadline = f"http://127.0.0.1:{port}/readyz", time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        time.sleep(0.02)
    raise AssertionError("not ready")
