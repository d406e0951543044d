"""Cascades on real variants: who answers which row, within which bounds."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from tests import ladder as ladders
from tests import models, world
from tests.calls import Caller, Reply
from tests.faults.gateways import until
from tests.ladder import Ladder
from variants.data_folder import open_data_folder
from variants.evidence import Cascade, Interval

MODEL = "sure"
THRESHOLD = 0.9
ROWS = models.tiny_rows(64, seed=5)


def confidence(variant: int) -> np.ndarray[Any, Any]:
    logits = models.tiny_logits(ROWS, variant).astype(np.float64)
    return np.asarray(np.exp(logits).max(axis=1) / np.exp(logits).sum(axis=1))


SURE = ROWS[np.flatnonzero(confidence(13) > THRESHOLD + 0.02)]
UNSURE = ROWS[np.flatnonzero(confidence(13) < THRESHOLD - 0.02)]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[world.Gateway]:
    """A model with a quick variant, a slow one, and a cascade between the two."""
    folder = tmp_path_factory.mktemp("cascade")
    spec = replace(models.tiny_spec(MODEL), labels=())
    quick = models.tiny_onnx(folder / "quick.onnx", seed=13)
    slow = models.slow_onnx(folder / "slow.onnx", iterations=6, seed=0)
    with open_data_folder(folder / "data") as data:
        evaluation = models.tiny_evaluation(400, wrong=20)
        found = world.publish(data, spec, evaluation, {"slow": slow, "quick": quick})
        cascade = Cascade(
            first="quick",
            then="slow",
            threshold=THRESHOLD,
            max_drop_points=1.0,
            n=400,
            escalation=Interval(value=0.4, low=0.35, high=0.45),
            accuracy=Interval(value=0.93, low=0.9, high=0.95),
            latency_s=0.01,
        )
        data.store.put_manifest(replace(found["quick"], cascades=(cascade,)))
        ladder = Ladder(root=folder / "data", key=world.make_key(data))
    with world.gateway(ladder.root, ladder.key, env=ladders.ENV) as running:
        yield running
    log = "".join(running.log)
    assert "Traceback" not in log and "never retrieved" not in log


def ask(gateway: world.Gateway, rows: Any, **headers: str) -> httpx.Response:
    with gateway.client() as client:
        sent = {"infer-cascade": "?1"} | {k.replace("_", "-"): v for k, v in headers.items()}
        return client.post("/infer", json={"model": MODEL, "inputs": rows.tolist()}, headers=sent)


def logits(reply: httpx.Response) -> np.ndarray[Any, Any]:
    return np.array(reply.json()["outputs"]["logits"])


def test_sure_rows_are_answered_by_the_first_variant_alone(gateway: world.Gateway) -> None:
    reply = ask(gateway, SURE[:3])
    assert reply.status_code == 200, reply.text
    assert reply.headers["infer-cascade"] == '?1;first="quick";then="slow";unsure=0;escalated=0'
    assert reply.headers["infer-variant"] == '"quick"'
    assert "reason=cascade" in reply.headers["infer-decision"]
    assert np.allclose(logits(reply), models.tiny_logits(SURE[:3], 13), atol=1e-4)


def test_unsure_rows_go_on_and_every_row_has_the_answer_of_its_variant(
    gateway: world.Gateway,
) -> None:
    mixed = np.concatenate([SURE[:2], UNSURE[:3], SURE[2:4]])
    reply = ask(gateway, mixed)
    assert reply.json()["cascade"] == {
        "first": "quick",
        "then": "slow",
        "threshold": THRESHOLD,
        "unsure_rows": 3,
        "escalated_rows": 3,
    }
    assert reply.headers["infer-variant"] == '"slow"'
    wanted = models.tiny_logits(mixed, 13)
    wanted[2:5] = models.tiny_logits(UNSURE[:3], 0)
    assert np.allclose(logits(reply), wanted, atol=1e-4)
    id = reply.headers["infer-decision"].split('id="')[1].split('"')[0]
    with gateway.client() as client:
        record = client.get(f"/v1/decisions/{id}").json()
        assert (record["cascade"]["first"], record["cascade"]["then"]) == ("quick", "slow")
        counted = (
            'cascade_requests_total{first="quick",model="sure",outcome="escalated",then="slow"}'
        )
        assert counted in client.get("/metrics").text


def test_a_floor_is_held_against_the_cascades_own_lower_bound(gateway: world.Gateway) -> None:
    kept = ask(gateway, UNSURE[:1], infer_min_accuracy="0.9")
    assert kept.headers["infer-cascade"].startswith("?1")
    above = ask(gateway, UNSURE[:1], infer_min_accuracy="0.91")
    assert above.status_code == 200
    assert above.headers["infer-cascade"] == "?0"
    assert above.headers["infer-variant"] == '"slow"'
    assert "cascade" not in above.json()


def test_both_together_must_fit_the_budget(gateway: world.Gateway) -> None:
    with gateway.client() as client:
        route = client.post("/v1/route", json={"model": MODEL}).json()
    cost = {c["variant"]: c["cost_usd_per_million"] for c in route["candidates"]}
    between = (cost["slow"] + cost["quick"] / 2, cost["slow"] + 1.5 * cost["quick"])
    for cap, mark in zip(between, ("?0", "?1"), strict=True):
        reply = ask(gateway, SURE[:1], infer_max_cost=f"{cap:.3f}")
        assert reply.headers["infer-cascade"].startswith(mark), (cap, cost)


def test_without_the_header_nothing_changes(gateway: world.Gateway) -> None:
    reply = ask(gateway, UNSURE[:1], infer_cascade="?0")
    assert "infer-cascade" not in reply.headers
    assert reply.headers["infer-variant"] == '"slow"'
    assert ask(gateway, UNSURE[:1], infer_cascade="yes").status_code == 400


@pytest.mark.parametrize("floor", [None, "0.9"])
def test_a_caller_that_leaves_leaves_nothing_behind(
    gateway: world.Gateway, floor: str | None
) -> None:
    async def leave() -> Reply:
        (worker,) = gateway.workers()
        os.kill(worker, signal.SIGSTOP)
        headers = {"Infer-Cascade": "?1"} | ({} if floor is None else {"Infer-Min-Accuracy": floor})
        body = {"model": MODEL, "inputs": UNSURE[0].tolist()}
        async with Caller(gateway.port, gateway.key) as caller:
            call = asyncio.create_task(caller.infer(body, headers))
            await asyncio.sleep(0.1)
            call.cancel()
        await asyncio.sleep(0.05)
        os.kill(worker, signal.SIGCONT)
        async with Caller(gateway.port, gateway.key) as caller:
            return await caller.infer(body, headers)

    reply = asyncio.run(leave())
    assert reply.status == 200
    assert reply.headers["infer-cascade"].endswith("unsure=1;escalated=1")
    with gateway.client() as client:  # which is in flight itself
        until(lambda: "gearshift_inflight_requests 1.0" in client.get("/metrics").text)


def test_the_second_variant_may_be_retired_while_cascades_run(gateway: world.Gateway) -> None:
    async def story() -> list[Reply]:
        replies: list[Reply] = []
        done = asyncio.Event()

        async def act() -> None:
            async with Caller(gateway.port, gateway.key) as caller:
                while not done.is_set():
                    body = {"model": MODEL, "inputs": UNSURE[0].tolist()}
                    replies.append(await caller.infer(body, {"Infer-Cascade": "?1"}))

        def switch() -> None:
            with gateway.client() as client:
                client.put(
                    f"/v1/models/{MODEL}/reference", json={"variant": "quick"}
                ).raise_for_status()
                for _ in range(5):
                    for step in ("deactivate", "activate"):
                        path = f"/v1/models/{MODEL}/variants/slow/{step}"
                        client.post(path).raise_for_status()
                        time.sleep(0.05)

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(act())
            await asyncio.to_thread(switch)
            done.set()
        return replies

    replies = asyncio.run(story())
    assert {reply.status for reply in replies} == {200}
    marks = {reply.headers["infer-cascade"][:2] for reply in replies}
    assert marks == {"?0", "?1"}
