"""The admin API against a small model of it: whatever is asked, in any order, both agree.

`GEARSHIFT_TEST_STEPS` sets the number of steps (300).
"""

import hashlib
import itertools
import os
import pickle
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests import ladder as ladders
from tests import models, world
from tests.admin_model import AdminModel
from tests.faults.table import drilled
from tests.ladder import MODEL, Ladder

STEPS = int(os.environ.get("GEARSHIFT_TEST_STEPS", "300"))
EACH = 50
BASE = ("best", "mid", "fast", "glacial")
ROUTES = {"read": "/v1/models", "admin": "/v1/keys", "metrics": "/metrics"}
URL = f"/v1/models/{MODEL}"
SCOPES = st.frozensets(st.sampled_from(["infer", "read", "admin", "metrics"]), min_size=1)


class Machine(RuleBasedStateMachine):
    """Requests to a gateway that runs on from example to example; each begins as the ladder was."""

    client: ClassVar[httpx.Client]
    digests: ClassVar[dict[str, str]]
    numbers: ClassVar[Iterator[int]]
    counts: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.model = AdminModel(states=dict.fromkeys(BASE, "active"), reference="best")
        self.secrets: dict[str, list[str]] = {}
        self.blobs = [os.urandom(4096) for _ in range(3)]
        self.begin()

    def begin(self) -> None:
        """Bring the ladder back; what earlier examples registered is retired."""
        for name in BASE:
            self.post(f"variants/{name}/activate")
        self.client.put(f"{URL}/reference", json={"variant": "best"}).raise_for_status()

    def teardown(self) -> None:
        for name, state in self.model.states.items():
            if name not in BASE and state != "retired":
                self.post(f"variants/{name}/retire?force=true")
        for digest in list(self.model.uploads):
            self.hold(
                "cancel", self.client.delete(f"/v1/blobs/{digest}"), self.model.cancel(digest)
            )
        for key in self.secrets:
            self.client.delete(f"/v1/keys/{key}")
        super().teardown()

    def post(self, path: str, body: object = None, **headers: str) -> httpx.Response:
        return self.client.post(f"{URL}/{path}", json=body, headers=headers)

    def hold(self, rule: str, reply: httpx.Response, status: int) -> None:
        """The reply must be what the model said."""
        self.counts[f"{rule} {status}"] += 1
        assert reply.status_code == status, f"{rule}: {status} expected, {reply.text}"

    def named(self, number: int) -> str:
        """One of the variants there are, or one that there is not."""
        names = [*sorted(self.model.states), "nobody"]
        return names[number % len(names)]

    # Variants

    @rule(
        n=st.integers(0, 30),
        artifact=st.sampled_from(["good", "other", "pickle", "missing"]),
        then=st.sampled_from(["activate", "wait", "shadow", "canary"]),
        dry=st.sampled_from([False, False, True]),
    )
    def register(self, n: int, artifact: str, then: str, dry: bool) -> None:
        fresh = n == 0 or artifact in {"pickle", "missing"}
        name = f"new-{next(self.numbers)}" if fresh else sorted(self.model.states)[n % 3]
        body = {"name": name, "artifact": {"digest": self.digests[artifact]}, "then": then}
        only = "?validate=only" if dry else ""
        reply = self.post(f"variants{only}", body, prefer="wait=60")
        what = "dry run" if dry else f"register, then {then}"
        self.hold(what, reply, self.model.register(name, artifact, then, dry=dry))
        if dry and reply.status_code == 200:
            assert reply.json()["passed"] == (artifact == "good")

    @rule(n=st.integers(0, 9))
    def look_back(self, n: int) -> None:
        name = self.named(n)
        reply = self.client.get(f"{URL}/variants/{name}/history")
        self.hold("history", reply, 200 if name in self.model.states else 404)
        if reply.status_code == 200 and name not in BASE:  # theirs is as long as the test
            state = None
            for line in reply.json()["history"]:
                assert line["old_state"] == state
                state = line["new_state"]
            assert state == self.model.states[name]

    # Uploads

    @rule(n=st.integers(0, 2), shift=st.sampled_from([0, 0, 0, 1]), share=st.integers(1, 4))
    def append(self, n: int, shift: int, share: int) -> None:
        """Part of a blob, mostly from where it ended, to its end where it is long enough."""
        content = self.blobs[n]
        digest = hashlib.sha256(content).hexdigest()
        offset = self.model.uploads.get(digest, (0, False))[0] + shift
        part = content[offset : offset + share * len(content) // 4]
        last = offset + len(part) >= len(content)
        reply = self.client.patch(
            f"/v1/blobs/{digest}",
            content=part,
            headers={"upload-offset": str(offset), "upload-complete": f"?{int(last)}"},
        )
        self.hold("append", reply, self.model.append(digest, offset, len(part), last=last))

    @rule(n=st.integers(0, 2), cancel=st.booleans())
    def look_at_upload(self, n: int, cancel: bool) -> None:
        digest = hashlib.sha256(self.blobs[n]).hexdigest()
        path = f"/v1/blobs/{digest}"
        if cancel:
            self.hold("cancel", self.client.delete(path), self.model.cancel(digest))
        reply = self.client.head(path)
        self.hold("upload", reply, 200 if digest in self.model.uploads else 404)
        if reply.status_code == 200:
            here, complete = self.model.uploads[digest]
            assert reply.headers["upload-offset"] == str(here)
            assert reply.headers["upload-complete"] == f"?{int(complete)}"

    @rule(n=st.integers(0, 9))
    def activate(self, n: int) -> None:
        name = self.named(n)
        reply = self.post(f"variants/{name}/activate")
        self.hold("activate", reply, self.model.activate(name))

    @rule(n=st.integers(0, 9), force=st.sampled_from([False, False, True]))
    def deactivate(self, n: int, force: bool) -> None:
        name = self.named(n)
        reply = self.post(f"variants/{name}/deactivate?force={str(force).lower()}")
        self.hold("deactivate", reply, self.model.deactivate(name, force=force))

    @rule(n=st.integers(0, 9), state=st.sampled_from(["shadow", "canary"]))
    def try_out(self, n: int, state: str) -> None:
        name = self.named(n)
        reply = self.post(f"variants/{name}/{state}", {})
        self.hold(state, reply, self.model.try_out(name, state))

    @rule(n=st.integers(0, 9), force=st.booleans())
    def retire(self, n: int, force: bool) -> None:
        name = self.named(n)
        if name in BASE:
            name = "nobody"  # the next example needs it again
        reply = self.post(f"variants/{name}/retire?force={str(force).lower()}")
        self.hold("retire", reply, self.model.retire(name, force=force))

    @rule(n=st.integers(0, 9))
    def set_reference(self, n: int) -> None:
        name = self.named(n)
        reply = self.client.put(f"{URL}/reference", json={"variant": name})
        self.hold("reference", reply, self.model.set_reference(name))

    @rule(n=st.integers(0, 9))
    def infer(self, n: int) -> None:
        name = self.named(n)
        if name == "glacial" or self.model.states.get(name) == "canary":
            return  # takes a second, or may be asked for by name
        reply = self.client.post(
            "/infer",
            json={"model": MODEL, "inputs": [1.0, 2.0, 3.0, 4.0]},
            headers={"infer-variants": f'"{name}"'},
        )
        self.hold("infer", reply, self.model.infer(name))

    # Two admins at once, and answers that got lost

    @rule(n=st.integers(0, 9))
    def write_on_what_was_seen(self, n: int) -> None:
        name = self.named(n)
        seen = self.client.get(f"{URL}/variants/{name}")
        if name not in self.model.states:
            self.hold("look", seen, 404)
            return
        tag = {"if-match": seen.headers["etag"]}
        first = self.post(f"variants/{name}/activate", **tag)
        status = self.model.activate(name)
        self.hold("if-match, first", first, status)
        if status == 200:
            second = self.post(f"variants/{name}/deactivate?force=true", **tag)
            self.hold("if-match, second", second, 412)

    @rule(n=st.integers(0, 9))
    def ask_again(self, n: int) -> None:
        name = self.named(n)
        once = {"idempotency-key": f'"{uuid.uuid4()}"'}
        first = self.post(f"variants/{name}/deactivate", **once)
        self.hold("idempotent, first", first, self.model.deactivate(name, force=False))
        again = self.post(f"variants/{name}/deactivate", **once)
        self.hold("idempotent, again", again, first.status_code)
        assert again.json().get("state") == first.json().get("state")

    # Keys

    @rule(scopes=SCOPES)
    def make_key(self, scopes: frozenset[str]) -> None:
        reply = self.client.post("/v1/keys", json={"name": "made", "scopes": sorted(scopes)})
        self.hold("make key", reply, 201)
        key = reply.json()["key"]
        id = key.split("_")[1]
        self.secrets[id], self.model.keys[id] = [key], scopes

    @rule(n=st.integers(0, 3), scope=st.sampled_from(sorted(ROUTES)), old=st.booleans())
    def use_key(self, n: int, scope: str, old: bool) -> None:
        """By its secret, or by the one before it, which is valid for a while."""
        if not self.secrets:
            return
        id = sorted(self.secrets)[n % len(self.secrets)]
        secret = self.secrets[id][-2:][0 if old else -1]
        reply = self.client.get(ROUTES[scope], headers={"authorization": f"Bearer {secret}"})
        self.hold(f"use key for {scope}", reply, self.model.may(id, scope))

    @rule(n=st.integers(0, 3))
    def rotate_key(self, n: int) -> None:
        id = sorted(self.secrets)[n % len(self.secrets)] if self.secrets else "00000000"
        reply = self.client.post(f"/v1/keys/{id}/rotate", json={})
        self.hold("rotate key", reply, self.model.rotate(id))
        if reply.status_code == 200:
            self.secrets[id].append(reply.json()["key"])

    @rule(n=st.integers(0, 3))
    def revoke_key(self, n: int) -> None:
        id = sorted(self.secrets)[n % len(self.secrets)] if self.secrets else "00000000"
        reply = self.client.delete(f"/v1/keys/{id}")
        self.hold("revoke key", reply, self.model.revoke(id))

    @invariant()
    def the_states_are_those_of_the_model(self) -> None:
        self.counts["steps"] += 1
        listed = self.client.get(f"{URL}/variants").json()["variants"]
        states = {v["variant"]: v["state"] for v in listed if v["variant"] in self.model.states}
        assert states == self.model.states
        reference = [v["variant"] for v in listed if v["reference"]]
        assert reference == [self.model.reference]


@pytest.mark.slow
def test_the_admin_api_does_what_a_small_model_of_it_does(ladder: Ladder, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled.onnx"
    pickled.write_bytes(pickle.dumps({"weights": [1.0]}))
    with world.gateway(ladder.root, ladder.key, env=ladders.ENV) as gateway:
        with gateway.client() as client:
            Machine.client = client
            Machine.numbers = itertools.count()
            Machine.counts = Counter()
            Machine.digests = {
                "good": world.upload(client, ladders.onnx(tmp_path, "extra-0")),
                "other": world.upload(client, models.pair_onnx(tmp_path / "pair.onnx")),
                "pickle": world.upload(client, pickled),
                "missing": "0" * 64,
            }
            run_state_machine_as_test(
                Machine,
                settings=settings(
                    max_examples=max(1, STEPS // EACH),
                    stateful_step_count=EACH,
                    deadline=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                    database=None,
                ),
            )
        assert "Traceback" not in "".join(gateway.log)
    counts = Machine.counts
    drilled(
        "D0",
        "any sequence of admin requests, against a model of a hundred lines",
        {
            "steps": counts.pop("steps"),
            "kinds of answers": len(counts),
            "requests held": counts.total(),
            "divergences": 0,
        },
    )
