"""Shadows and canaries on a running gateway under load: bad ones go, a good one stays.

Callers must not notice: each request is answered, and rightly, whatever the candidate does.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from router.rollout import PLAN
from tests import ladder as ladders
from tests import models, world
from tests.calls import Caller, Reply
from tests.faults.table import drilled
from variants.data_folder import open_data_folder
from variants.lifecycle import State

MODEL = "gears"
VARIANTS = f"/v1/models/{MODEL}/variants"
SERVICE_S = 0.004
ROW = [1.0, 2.0, 3.0, 4.0]
RIGHT = sum(ROW)
CONCURRENCY = 4
WITHIN_S = 30.0
CRITERIA = {
    "max_error_excess": 0.2,
    "max_slow_excess": 0.3,
    "slow_factor": 2.5,
    "min_agreement": 0.8,
}
"""Loose enough to be settled by some hundred requests on a busy machine."""

WRONG = {"scale": 3.0}
SLOW = {"service_s": 0.06, "promised_s": SERVICE_S}
CRASHES = {"fault": "crash", "fault_above": 0.5}
HEAVY = {"load_s": 2.0}
CANDIDATES: dict[str, dict[str, Any]] = {
    "good": {},
    "better": {},
    "wrong": WRONG,
    "wrong-2": WRONG,
    "slow": SLOW,
    "slow-2": SLOW,
    "slow-3": SLOW,
    "crashing": CRASHES,
    "crashing-2": CRASHES,
    "heavy": HEAVY,
    "heavy-2": HEAVY,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """A running gateway with two variants that serve, and many that want to."""

    gateway: world.Gateway
    other_key: str
    root: Path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("rollout") / "data"
    spec = replace(models.tiny_spec(MODEL), task="tensors", labels=())
    with open_data_folder(root) as data:
        data.registry.put_model(spec, None, actor="test")
        for name in ("old", "older"):
            ladders.publish_fake(data, name, service_s=SERVICE_S)
        data.registry.set_reference(MODEL, "old", actor="test")
        for name, plan in CANDIDATES.items():
            wanted = {"service_s": SERVICE_S, **plan}
            ladders.publish_fake(data, name, state="inactive", **wanted)
        key, other = world.make_key(data), world.make_key(data)
    env = {**ladders.ENV, "GEARSHIFT_WORKERS": "2", "GEARSHIFT_PIN_WORKERS": "false"}
    with world.gateway(root, key, env=env) as gateway:
        yield World(gateway=gateway, other_key=other, root=root)
        log = "".join(gateway.log)
        assert "Traceback" not in log and "never retrieved" not in log, log[-4000:]


@dataclass
class Load:
    """What callers saw while the load ran."""

    replies: list[tuple[Reply, str]] = field(default_factory=list)

    @property
    def variants(self) -> Counter[str]:
        """Who answered how often."""
        return Counter(variant for _, variant in self.replies)

    def check(self) -> None:
        """All were answered; only a variant that answers wrongly gave a wrong answer."""
        assert self.replies
        for reply, variant in self.replies:
            assert reply.status == 200, reply.body
            if not variant.startswith("wrong"):
                assert reply.json["outputs"]["logits"] == [[RIGHT] * models.CLASSES]


@asynccontextmanager
async def load(
    port: int,
    key: str,
    headers: dict[str, str] | None = None,
    *,
    callers: int = CONCURRENCY,
    pause_s: float = 0.006,
) -> AsyncIterator[Load]:
    """Callers that ask again and again, each with a pause now and then, so that there is room."""
    found, done = Load(), asyncio.Event()

    async def ask() -> None:
        async with Caller(port, key) as caller:
            while not done.is_set():
                reply = await caller.infer({"model": MODEL, "inputs": ROW}, headers)
                found.replies.append((reply, reply.headers.get("infer-variant", "").strip('"')))
                await asyncio.sleep(pause_s)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(ask())
        try:
            yield found
        finally:
            done.set()
    found.check()


def story(running: World, act: Callable[[Caller, Load], Awaitable[None]]) -> Load:
    """Run it under load with an admin's connection."""

    async def run() -> Load:
        port, key = running.gateway.port, running.gateway.key
        async with load(port, key) as found, Caller(port, key) as admin:
            await act(admin, found)
        return found

    return asyncio.run(run())


async def post(admin: Caller, name: str, to: str, body: Any = None) -> dict[str, Any]:
    reply = await admin.ask("POST", f"{VARIANTS}/{name}/{to}", body)
    assert reply.status == 200, reply.body
    found: dict[str, Any] = reply.json
    return found


async def settled(admin: Caller, name: str, state: str) -> dict[str, Any]:
    """The variant once it is in this state."""
    end = time.monotonic() + WITHIN_S
    while True:
        detail = (await admin.ask("GET", f"{VARIANTS}/{name}")).json
        if detail["state"] == state:
            return dict(detail)
        assert time.monotonic() < end, detail
        await asyncio.sleep(0.05)


def broken(detail: dict[str, Any]) -> set[str]:
    """The criteria that the last move of a variant was decided on, as its history keeps them."""
    last = detail["history"][-1]
    assert last["actor"] == "gateway" and last["evidence"]["verdict"] == "demote", last
    return {f["criterion"] for f in last["evidence"]["findings"] if f["standing"] == "broken"}


@pytest.mark.parametrize(("name", "criterion"), [("wrong", "agreement"), ("crashing", "errors")])
def test_a_bad_shadow_is_demoted_and_no_caller_ever_sees_it(
    running: World, name: str, criterion: str
) -> None:
    workers = running.gateway.workers()
    plan = {"share": {"ratio": 1.0}, "criteria": CRITERIA}

    async def act(admin: Caller, found: Load) -> None:
        detail = await post(admin, name, "shadow", plan)
        assert (detail["state"], detail["engaged_on_workers"]) == ("shadow", 0)
        assert criterion in broken(await settled(admin, name, "inactive"))

    found = story(running, act)
    assert found.variants.keys() <= {"old", "older"}
    assert set(workers) <= set(running.gateway.workers())


def test_a_good_shadow_is_compared_and_stays_until_it_is_moved(running: World) -> None:
    plan = {"share": {"ratio": 1.0}, "criteria": {**CRITERIA, "promote": False}}

    async def act(admin: Caller, found: Load) -> None:
        await post(admin, "good", "shadow", plan)
        end = time.monotonic() + WITHIN_S
        while True:
            detail = (await admin.ask("GET", f"{VARIANTS}/good")).json
            if detail["rollout"] and detail["rollout"]["verdict"] == "promote":
                break
            assert time.monotonic() < end, detail["rollout"]
            await asyncio.sleep(0.05)
        rollout = detail["rollout"]
        assert rollout["compared"] == rollout["agreed"] > 10 and rollout["failed"] == 0
        agreement = next(f for f in rollout["findings"] if f["criterion"] == "agreement")
        assert agreement["limit"] == 0.8 <= agreement["found"]["low"]
        assert rollout["latency_ms"]["p50"] >= 1000 * SERVICE_S
        other = await admin.ask("POST", f"{VARIANTS}/better/canary", plan)
        assert (other.status, "one is tried at a time" in other.json["detail"]) == (409, True)
        await post(admin, "good", "deactivate")

    assert story(running, act).variants.keys() <= {"old", "older"}


@pytest.mark.parametrize(
    ("name", "criterion", "ratio"),
    [
        ("wrong-2", "agreement", 0.3),
        ("slow", "latency", 0.3),
        ("slow-3", "latency", 1.0),
        ("crashing-2", None, 0.3),
    ],
)
def test_a_bad_canary_is_demoted_and_no_request_fails(
    running: World, name: str, criterion: str | None, ratio: float
) -> None:
    """One that breaks its worker is demoted by what comes first: its failures or quarantine."""
    plan = {"share": {"ratio": ratio}, "criteria": CRITERIA}

    async def act(admin: Caller, found: Load) -> None:
        begun = time.monotonic()
        await post(admin, name, "canary", plan)
        detail = await settled(admin, name, "inactive")
        took["seconds"] = round(time.monotonic() - begun, 2)
        if criterion is not None:
            assert criterion in broken(detail)
        else:
            assert detail["history"][-1]["evidence"]["verdict"] == "demote"

    took: dict[str, float] = {}
    found = story(running, act)
    counts = {"requests": len(found.replies), "by it": found.variants[name], "failed": 0, **took}
    what = f"a bad canary ({name.rstrip('-23')}) with {ratio:.0%} is demoted under load"
    drilled("R1", what, counts)


@contextmanager
def gateway_of(root: Path, variants: dict[str, dict[str, Any]]) -> Iterator[world.Gateway]:
    """A gateway with one worker; `old` is the reference, `older` serves too, any other waits."""
    spec = replace(models.tiny_spec(MODEL), task="tensors", labels=())
    with open_data_folder(root) as data:
        data.registry.put_model(spec, None, actor="test")
        for name, plan in variants.items():
            state: State = "active" if name in {"old", "older"} else "inactive"
            ladders.publish_fake(data, name, state=state, **{"service_s": SERVICE_S, **plan})
        data.registry.set_reference(MODEL, "old", actor="test")
        key = world.make_key(data)
    env = {**ladders.ENV, "GEARSHIFT_WORKERS": "1", "GEARSHIFT_PIN_WORKERS": "false"}
    with world.gateway(root, key, env=env) as gateway:
        yield gateway
        assert "Traceback" not in "".join(gateway.log)


@pytest.mark.parametrize("fault", ["its file is damaged", "it fails"])
def test_what_befalls_the_reference_is_not_held_against_a_shadow(
    tmp_path: Path, fault: str
) -> None:
    """Where the reference cannot be run on copies, the answers that callers got of it are left."""
    fails = {"fault": "shape", "fault_above": 4.5} if fault == "it fails" else {}
    plan = {"share": {"ratio": 1.0}, "criteria": {**CRITERIA, "promote": False}}
    root = tmp_path / "data"

    async def run(gateway: world.Gateway) -> None:
        async with (
            load(gateway.port, gateway.key, {"Infer-Variants": '"old"'}),
            Caller(gateway.port, gateway.key) as admin,
        ):
            await post(admin, "new", "shadow", plan)
            end = time.monotonic() + WITHIN_S
            while True:
                for _ in range(20 if fault == "it fails" else 0):  # so that one of them is copied
                    body = {"model": MODEL, "inputs": [5.0, 0.0, 0.0, 5.0]}
                    await admin.infer(body, {"Infer-Variants": '"older"'})
                detail = (await admin.ask("GET", f"{VARIANTS}/new")).json
                assert detail["state"] == "shadow", detail["history"][-1]["reason"]
                metrics = (await admin.ask("GET", "/metrics")).body.decode()
                told = 'shadow_rows_total{model="gears",outcome="failed",variant="old"}' in metrics
                if told and detail["rollout"] and detail["rollout"]["verdict"] == "promote":
                    break
                assert time.monotonic() < end, (detail["rollout"], told)
                await asyncio.sleep(0.05)
            assert detail["rollout"]["failed"] == 0 < detail["rollout"]["agreed"]

    with gateway_of(root, {"old": fails, "older": {}, "new": {}}) as gateway:
        with open_data_folder(root) as data:
            manifest = data.registry.variant(MODEL, "old").manifest_id
            assert manifest is not None
            blob = data.store.blob_path(data.store.manifest(manifest).artifact.digest)
        if fault == "its file is damaged":
            blob.chmod(0o600)
            blob.write_bytes(blob.read_bytes() + b" ")
        asyncio.run(run(gateway))


def test_a_wrong_canary_is_told_by_its_answers_however_busy_the_gateway_is(
    tmp_path: Path,
) -> None:
    plan = {"share": {"ratio": 0.5}, "criteria": {**CRITERIA, "max_slow_excess": 1.0}}

    async def run(gateway: world.Gateway) -> None:
        busy = load(gateway.port, gateway.key, callers=16, pause_s=0.0)
        async with busy, Caller(gateway.port, gateway.key) as admin:
            await asyncio.sleep(0.5)
            await post(admin, "wrong", "canary", plan)
            skipped, end = 0, time.monotonic() + WITHIN_S
            while True:
                detail = (await admin.ask("GET", f"{VARIANTS}/wrong")).json
                if detail["state"] == "inactive":
                    break
                if detail["rollout"]:
                    skipped = max(skipped, detail["rollout"]["skipped"])
                assert time.monotonic() < end, detail["rollout"]
                await asyncio.sleep(0.05)
            assert broken(detail) == {"agreement"}
            assert skipped > 0
            metrics = (await admin.ask("GET", "/metrics")).body.decode()
            assert 'shadow_skipped_total{model="gears",variant="wrong"}' in metrics

    variants = {
        "old": {"service_s": 0.02},
        "older": {"service_s": 0.02},
        "wrong": {"service_s": 0.02, **WRONG},
    }
    with gateway_of(tmp_path / "data", variants) as gateway:
        asyncio.run(run(gateway))


def test_a_verdict_is_void_where_the_plan_was_changed_since(tmp_path: Path) -> None:
    """By another gateway, while this one already opens the variant that it is about to promote."""
    kept = {"share": {"ratio": 1.0}, "criteria": {**CRITERIA, "promote": False}}
    root = tmp_path / "data"

    async def run(gateway: world.Gateway) -> None:
        some = load(gateway.port, gateway.key, callers=2)  # or the shadow would find little room
        async with some, Caller(gateway.port, gateway.key) as admin:
            await post(admin, "new", "shadow", {**kept, "criteria": {**CRITERIA, "promote": True}})
            end = time.monotonic() + WITHIN_S
            while not any("verdict_begun" in line for line in gateway.log):
                assert time.monotonic() < end, gateway.log[-3:]
                await asyncio.sleep(0.02)
            with open_data_folder(root) as data:
                text = PLAN.dump_json(PLAN.validate_json(json.dumps(kept))).decode()
                data.registry.replan(MODEL, "new", text, actor="other", reason="by people")
            while not any("verdict_void" in line for line in gateway.log):
                detail = (await admin.ask("GET", f"{VARIANTS}/new")).json
                assert detail["state"] == "shadow", detail["history"][-1]
                assert time.monotonic() < end
                await asyncio.sleep(0.05)
            while True:
                detail = (await admin.ask("GET", f"{VARIANTS}/new")).json
                assert detail["state"] == "shadow"
                found = detail["rollout"]
                changed = found and not found["plan"]["criteria"]["promote"]
                if changed and found["verdict"] == "promote":
                    break
                assert time.monotonic() < end, found
                await asyncio.sleep(0.05)

    with gateway_of(root, {"old": {}, "older": {}, "new": {"load_s": 2.0}}) as gateway:
        asyncio.run(run(gateway))


def test_a_canary_is_rolled_back_within_a_second_by_one_call(running: World) -> None:
    """While it is slow and in use; what is sent after the reply goes to others."""
    plan = {"share": {"ratio": 0.5}, "criteria": {**CRITERIA, "demote": False}}

    async def act(admin: Caller, found: Load) -> None:
        await post(admin, "slow-2", "canary", plan)
        end = time.monotonic() + WITHIN_S
        while found.variants["slow-2"] < 5:
            assert time.monotonic() < end, found.variants
            await asyncio.sleep(0.01)
        begun = time.monotonic()
        detail = await post(admin, "slow-2", "deactivate")
        done = time.monotonic()
        assert detail["state"] == "inactive"
        assert done - begun < 1.0
        took["ms"] = round((done - begun) * 1000, 1)
        await asyncio.sleep(0.3)
        late = [v for reply, v in found.replies if reply.sent_s > done]
        assert late and "slow-2" not in late

    took: dict[str, float] = {}
    found = story(running, act)
    counts = {"requests": len(found.replies), "failed": 0, **took}
    drilled("R2", "a slow canary is rolled back under load", counts)


def test_a_roll_back_waits_for_no_other_variant_that_loads(running: World) -> None:
    plan = {"share": {"ratio": 0.5}, "criteria": {**CRITERIA, "demote": False}}

    async def act(admin: Caller, found: Load) -> None:
        await post(admin, "better", "canary", plan)
        async with Caller(running.gateway.port, running.gateway.key) as second:
            loading = asyncio.create_task(post(second, "heavy", "activate"))
            await asyncio.sleep(0.5)
            begun = time.monotonic()
            await post(admin, "better", "deactivate")
            assert time.monotonic() - begun < 1.0
            assert not loading.done()
            assert (await loading)["state"] == "active"
        await post(admin, "heavy", "deactivate")

    story(running, act)


def test_of_two_who_saw_the_same_one_changes_it_however_long_that_takes(running: World) -> None:
    """The second looks while the first one's variant loads, and acts on what it sees."""
    path = f"{VARIANTS}/heavy-2"

    async def run() -> list[Reply]:
        port, key = running.gateway.port, running.gateway.key
        async with Caller(port, key) as first, Caller(port, key) as second:

            async def canary(who: Caller, ratio: float) -> Reply:
                tag = (await who.ask("GET", path)).headers["etag"]
                plan = {"share": {"ratio": ratio}, "criteria": {"promote": False}}
                return await who.ask("POST", f"{path}/canary", plan, {"If-Match": tag})

            one = asyncio.create_task(canary(first, 0.1))
            await asyncio.sleep(0.5)
            other = await canary(second, 0.2)
            shown = await second.ask("GET", path)
            assert shown.json["state"] == "canary"
            return [await one, other]

    replies = asyncio.run(run())
    assert sorted(reply.status for reply in replies) == [200, 412], [r.body for r in replies]
    with running.gateway.client() as client:
        won = next(reply for reply in replies if reply.status == 200)
        seen = client.get(path)
        assert seen.json()["history"] == won.json["history"]
        assert seen.headers["etag"].split("-")[0] == won.headers["etag"].split("-")[0]
        client.post(f"{path}/deactivate").raise_for_status()


def test_keys_and_headers_choose_the_canary_and_bounds_are_kept(running: World) -> None:
    with running.gateway.client() as client, running.gateway.client(running.other_key) as other:
        key = running.other_key.split("_")[1]
        share = {"ratio": 0.0, "keys": [key], "headers": {"Cohort": "beta"}}
        quiet = {**CRITERIA, "promote": False, "demote": False}
        body = {"share": share, "criteria": quiet}
        client.post(f"{VARIANTS}/better/canary", json=body).raise_for_status()

        def variant(who: Any, **headers: str) -> str:
            reply = who.post("/infer", json={"model": MODEL, "inputs": ROW}, headers=headers)
            assert reply.status_code == 200, reply.text
            return str(reply.headers["infer-variant"]).strip('"')

        assert variant(client) in {"old", "older"}
        assert variant(client, cohort="beta") == "better"
        assert variant(client, cohort="stable") in {"old", "older"}
        assert variant(other) == "better"
        pinned = {"infer-variants": '"older"', "cohort": "beta"}
        assert variant(client, **pinned) == "older"
        # The made-up accuracy of all of them is 0.55: what no variant keeps, the canary does not.
        strict = client.post(
            "/infer",
            json={"model": MODEL, "inputs": ROW},
            headers={"infer-min-accuracy": "0.9", "cohort": "beta"},
        )
        assert strict.status_code == 422
        text = client.get("/metrics").text
        assert 'gearshift_canary_requests_total{model="gears",outcome="taken"' in text
        assert 'outcome="unsuited",variant="better"' in text
        client.post(f"{VARIANTS}/better/deactivate").raise_for_status()


def test_a_good_canary_is_promoted(running: World) -> None:
    plan = {"share": {"ratio": 0.5}, "criteria": CRITERIA}

    async def act(admin: Caller, found: Load) -> None:
        await post(admin, "good", "canary", plan)
        detail = await settled(admin, "good", "active")
        last = detail["history"][-1]
        assert (last["old_state"], last["actor"]) == ("canary", "gateway")
        assert last["evidence"]["counts"]["failed"]["hits"] == 0
        assert {f["standing"] for f in last["evidence"]["findings"]} == {"kept"}
        assert last["reason"].startswith("promoted: ")

    assert story(running, act).variants["good"] > 20


def test_two_gateways_agree_on_one_verdict_and_a_new_one_takes_part(running: World) -> None:
    """The second starts while the canary is one; the first that is sure promotes it for both."""
    plan = {"share": {"ratio": 0.5}, "criteria": CRITERIA}
    first = running.gateway
    env = {**ladders.ENV, "GEARSHIFT_PIN_WORKERS": "false"}
    slow_down = {**plan, "criteria": {**CRITERIA, "promote": False}}

    async def both(second: world.Gateway) -> None:
        async with (
            load(first.port, first.key) as one,
            load(second.port, second.key) as other,
            Caller(first.port, first.key) as admin,
        ):
            end = time.monotonic() + WITHIN_S
            while not (one.variants["better"] and other.variants["better"]):
                assert time.monotonic() < end, (one.variants, other.variants)
                await asyncio.sleep(0.02)
            await post(admin, "better", "canary", plan)
            detail = await settled(admin, "better", "active")
            moves = [e for e in detail["history"] if e["reason"].startswith("promoted")]
            assert len(moves) == 1
            async with Caller(second.port, second.key) as asker:
                while True:
                    reply = await asker.infer(
                        {"model": MODEL, "inputs": ROW}, {"Infer-Variants": "better"}
                    )
                    if reply.status == 200:
                        break
                    assert reply.status == 409 and time.monotonic() < end
                    await asyncio.sleep(0.05)

    with first.client() as client:
        client.post(f"{VARIANTS}/better/canary", json=slow_down).raise_for_status()
        with world.gateway(running.root, first.key, env=env) as second:
            asyncio.run(both(second))
        assert "Traceback" not in "".join(second.log)
        client.post(f"{VARIANTS}/better/deactivate").raise_for_status()


def test_the_reference_and_the_last_one_go_by_force_only_and_it_is_recorded(
    running: World,
) -> None:
    with running.gateway.client() as client:
        for name, state in (("older", "retired"), ("good", "inactive")):
            to = "retire" if state == "retired" else "deactivate"
            assert client.post(f"{VARIANTS}/{name}/{to}").json()["state"] == state
        refused = client.post(f"{VARIANTS}/old/deactivate")
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
        forced = client.post(f"{VARIANTS}/old/deactivate", params={"force": True}).json()
        assert forced["state"] == "inactive"
        assert "by force: it was the reference" in forced["history"][-2]["reason"]
        gone = client.post("/infer", json={"model": MODEL, "inputs": ROW})
        assert (gone.status_code, gone.json()["code"]) == (503, "no-healthy-variant")
        assert client.post(f"{VARIANTS}/older/activate").status_code == 409
        assert client.post(f"{VARIANTS}/old/activate").json()["state"] == "active"
        assert client.post("/infer", json={"model": MODEL, "inputs": ROW}).status_code == 200
