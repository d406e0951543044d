"""A budget of memory: what is asked for is open, the rest is opened when it must be."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests import ladder as ladders
from tests import world
from tests.calls import Caller, Reply
from tests.ladder import MODEL, Ladder
from variants.data_folder import open_data_folder

ROW = [1.0, 2.0, 3.0, 4.0]
SPARE_BYTES = 20 << 20
LOAD_S = 0.4
SPARE = ("spare-a", "spare-b", "spare-c")


@pytest.fixture(scope="module")
def tight(
    built_ladder: Ladder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[world.Gateway, dict[str, int], int]]:
    """Two workers with room for the ladder's variants once, and one of three spare ones."""
    ladder = built_ladder.copy(tmp_path_factory.mktemp("tight") / "data")
    with open_data_folder(ladder.root) as data:
        for number, name in enumerate(SPARE):
            ladders.publish_fake(
                data, name, load_s=LOAD_S, scale=10.0 + number, memory_bytes=SPARE_BYTES
            )
    sizes = {}
    for name, manifest in ladder.manifests().items():
        assert manifest.profile is not None
        sizes[name] = manifest.profile.memory_bytes
    budget = sum(sizes[name] for name in ladders.SEEDS) + SPARE_BYTES
    env = {**ladders.ENV, "GEARSHIFT_MEMORY_BYTES": str(budget)}
    with world.gateway(ladder.root, ladder.key, "--workers", "2", env=env) as gateway:
        yield gateway, sizes, budget
    assert "Traceback" not in "".join(gateway.log)


def opened(client: httpx.Client) -> dict[str, int]:
    """How many workers have each variant."""
    text = client.get("/metrics").text
    found = re.findall(r'gearshift_variant_workers\{model="gears",variant="([^"]+)"\} (\S+)', text)
    return {name: int(float(number)) for name, number in found}


def changes(client: httpx.Client) -> float:
    """Loads and unloads so far."""
    text = client.get("/metrics").text
    return sum(float(n) for n in re.findall(r"gearshift_residency_changes_total\{.*\} (\S+)", text))


def ask(client: httpx.Client, variant: str, **headers: str) -> httpx.Response:
    return client.post(
        "/infer",
        json={"model": MODEL, "inputs": ROW},
        headers={"infer-variants": f'"{variant}"'}
        | {name.replace("_", "-"): value for name, value in headers.items()},
    )


def settled(client: httpx.Client, within_s: float = 15.0) -> dict[str, int]:
    """What is open once nothing has changed for three seconds."""
    start, since, was = time.monotonic(), time.monotonic(), opened(client)
    while time.monotonic() - start < within_s and time.monotonic() - since < 3.0:
        time.sleep(0.1)
        if (now := opened(client)) != was:
            since, was = time.monotonic(), now
    return was


@pytest.mark.option("memory_bytes")
def test_what_is_open_keeps_the_budget_and_serves(
    tight: tuple[world.Gateway, dict[str, int], int],
) -> None:
    gateway, sizes, budget = tight
    with gateway.client() as client:
        found = opened(client)
        assert sum(sizes[name] * number for name, number in found.items()) <= budget
        assert 0 in found.values()
        reply = client.post("/infer", json={"model": MODEL, "inputs": ROW})
        assert reply.status_code == 200, reply.text


def test_a_variant_that_no_worker_has_is_opened_for_who_has_time_and_refused_to_who_has_not(
    tight: tuple[world.Gateway, dict[str, int], int],
) -> None:
    gateway, sizes, budget = tight
    with gateway.client() as client:
        absent = next(name for name in SPARE if not opened(client)[name])
        hurried = ask(client, absent, infer_max_latency_ms="15")
        assert (hurried.status_code, hurried.json()["code"]) == (503, "overloaded"), hurried.text
        assert int(hurried.headers["retry-after"]) >= 1
        start = time.monotonic()
        patient = ask(client, absent)
        took_s = time.monotonic() - start
        assert patient.status_code == 200, patient.text
        scale = 10.0 + SPARE.index(absent)
        assert np.allclose(patient.json()["outputs"]["logits"], sum(ROW) * scale)
        assert 0.05 < took_s < 10
        found = opened(client)
        assert found[absent] >= 1
        assert sum(sizes[name] * number for name, number in found.items()) <= budget


def test_loading_holds_up_nobody_and_constant_demand_changes_nothing(
    tight: tuple[world.Gateway, dict[str, int], int],
) -> None:
    gateway, _, _ = tight

    async def steady(until: asyncio.Event) -> list[Reply]:
        replies = []
        async with Caller(gateway.port, gateway.key) as caller:
            while not until.is_set():
                replies.append(await caller.infer({"model": MODEL, "inputs": ROW}))
                await asyncio.sleep(0.01)
        return replies

    async def story() -> list[Reply]:
        done = asyncio.Event()
        running = asyncio.create_task(steady(done))
        with gateway.client() as client:
            for name in SPARE:
                answered = await asyncio.to_thread(ask, client, name)
                assert answered.status_code == 200, answered.text
            await asyncio.to_thread(settled, client)
            before = changes(client)
            await asyncio.sleep(4.0)
            assert changes(client) == before
        done.set()
        return await running

    replies = asyncio.run(story())
    assert Counter(reply.status for reply in replies) == {200: len(replies)}
    assert sorted(reply.seconds for reply in replies)[int(0.95 * len(replies))] < LOAD_S


def test_what_alone_takes_more_than_the_budget_is_refused_at_once(
    built_ladder: Ladder, tmp_path: Path
) -> None:
    ladder = built_ladder.copy(tmp_path / "data")
    budget = 64 << 20
    with open_data_folder(ladder.root) as data:
        ladders.publish_fake(data, "huge", memory_bytes=budget + 1)
    env = {**ladders.ENV, "GEARSHIFT_MEMORY_BYTES": str(budget)}
    with (
        world.gateway(ladder.root, ladder.key, "--workers", "1", env=env) as gateway,
        gateway.client() as client,
    ):
        start = time.monotonic()
        refused = ask(client, "huge", infer_max_latency_ms="20000", infer_explain="?1")
        assert time.monotonic() - start < 5.0
        assert (refused.status_code, refused.json()["code"]) == (503, "no-healthy-variant")
        assert "memory_bytes" in refused.text
        assert ask(client, "best").status_code == 200


def test_a_variant_that_could_be_opened_counts_as_able_to_serve(
    built_ladder: Ladder, tmp_path: Path
) -> None:
    """One worker with room for one: the only open variant may go once another has been opened."""
    ladder = built_ladder.copy(tmp_path / "data")
    manifests = ladder.manifests()
    sizes = [m.profile.memory_bytes for m in manifests.values() if m.profile is not None]
    env = {**ladders.ENV, "GEARSHIFT_MEMORY_BYTES": str(max(sizes))}
    with open_data_folder(ladder.root) as data:
        artifact = data.store.blob_path(manifests["best"].artifact.digest)
    variants = f"/v1/models/{MODEL}/variants"
    replies: list[Reply] = []

    async def ask_on(gateway: world.Gateway) -> None:
        async with Caller(gateway.port, gateway.key) as caller:
            while True:
                body = {"model": MODEL, "inputs": ROW}
                replies.append(await caller.infer(body, {"Infer-Max-Latency-Ms": "500"}))

    async def switch_off(gateway: world.Gateway, name: str) -> Reply:
        """While requests with short deadlines come in."""
        async with Caller(gateway.port, gateway.key) as admin:
            asking = asyncio.create_task(ask_on(gateway))
            gone = await admin.ask("POST", f"{variants}/{name}/deactivate")
            await asyncio.sleep(0.1)
            asking.cancel()
            return gone

    with (
        world.gateway(ladder.root, ladder.key, "--workers", "1", env=env) as gateway,
        gateway.client() as client,
    ):
        for name in ("glacial", "mid"):
            assert client.post(f"{variants}/{name}/deactivate").status_code == 200
        assert ask(client, "fast").status_code == 200
        assert opened(client) == {"best": 0, "fast": 1}

        sound = artifact.read_bytes()
        artifact.chmod(0o600)
        artifact.write_bytes(b"damaged")
        kept = client.post(f"{variants}/fast/deactivate")
        assert (kept.status_code, kept.json()["code"]) == (409, "conflict")
        assert "the last variant" in kept.json()["detail"]
        assert ask(client, "fast").status_code == 200

        artifact.write_bytes(sound)
        gone = asyncio.run(switch_off(gateway, "fast"))
        assert gone.status == 200, gone.body
        assert replies
        assert Counter(reply.status for reply in replies) == {200: len(replies)}
        assert opened(client) == {"best": 1}
    assert "Traceback" not in "".join(gateway.log)
