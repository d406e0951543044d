"""Requests of every kind while variants come and go: what was promised is kept, each time.

`GEARSHIFT_TEST_REQUESTS` and `GEARSHIFT_TEST_SWITCHES` set the counts (10,000 and 50).
"""

import asyncio
import hashlib
import math
import os
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tests import ladder as ladders
from tests import models, world
from tests.calls import Caller, Reply, spread
from tests.faults.table import drilled
from tests.ladder import MODEL, PRICES, Ladder
from variants.cost import usd_per_million
from variants.manifest import Manifest

REQUESTS = int(os.environ.get("GEARSHIFT_TEST_REQUESTS", "10000"))
SWITCHES = int(os.environ.get("GEARSHIFT_TEST_SWITCHES", "50"))
REGISTRATIONS = 4
CONCURRENCY = 12
BUDGET_MS = 700
"""Excludes `glacial` (1 s a batch) and leaves all others room for the noise of a busy machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of request: its headers, how often it is sent, and which variants may answer it."""

    headers: dict[str, str]
    weight: float
    allowed: Callable[[Manifest], bool] = lambda _: True
    may_be_gone: bool = False


@dataclass
class Tally:
    """What was sent and what came back."""

    sent: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    variants: Counter[str] = field(default_factory=Counter)
    switches: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


def cost(manifest: Manifest) -> float:
    assert manifest.profile is not None
    return usd_per_million(
        PRICES,
        service_s=manifest.profile.latency_s[1].p50,
        batch=1,
        threads=manifest.profile.threads,
        memory_bytes=manifest.profile.memory_bytes,
    )


def kinds(manifests: dict[str, Manifest]) -> dict[str, Kind]:
    """Requests that the ladder can always serve, but for pins on what comes and goes."""
    best, mid, fast = (manifests[name] for name in ("best", "mid", "fast"))
    assert best.accuracy and mid.accuracy and fast.accuracy
    assert fast.accuracy.value < mid.accuracy.value < best.accuracy.value
    cap = math.sqrt(cost(fast) * cost(best))
    floor = round((mid.accuracy.high + best.accuracy.low) / 2, 3)
    point = round((mid.accuracy.value + best.accuracy.value) / 2, 3)
    drop = round(100 * (best.accuracy.value - mid.accuracy.value) / 2, 3)
    latency = {"Infer-Max-Latency-Ms": str(BUDGET_MS)}

    def cheap(manifest: Manifest) -> bool:
        return cost(manifest) <= cap

    def quick(manifest: Manifest) -> bool:
        assert manifest.profile is not None
        return manifest.profile.latency_s[8].p99 * 1000 <= BUDGET_MS

    def sure(manifest: Manifest) -> bool:
        return manifest.accuracy is not None and manifest.accuracy.low >= floor

    def pin(*names: str) -> Kind:
        text = ", ".join(f'"{name}"' for name in names)
        gone = not set(names) & {"best", "fast", "glacial"}
        return Kind(
            headers={"Infer-Variants": text},
            weight=1,
            allowed=lambda m: m.variant in names,
            may_be_gone=gone,
        )

    return {
        "none": Kind(headers={}, weight=4),
        "latency": Kind(headers=latency, weight=4, allowed=quick),
        "latency p99": Kind(
            headers={"Infer-Max-Latency-Ms": f"{BUDGET_MS};pctl=99"}, weight=2, allowed=quick
        ),
        "latency, fastest": Kind(
            headers={**latency, "Infer-Objective": "latency"}, weight=3, allowed=quick
        ),
        "cost": Kind(headers={"Infer-Max-Cost": f"{cap:.3f}"}, weight=4, allowed=cheap),
        "cost and latency": Kind(
            headers={**latency, "Infer-Max-Cost": f"{cap:.3f}"},
            weight=2,
            allowed=lambda m: cheap(m) and quick(m),
        ),
        "accuracy": Kind(headers={"Infer-Min-Accuracy": str(floor)}, weight=3, allowed=sure),
        "accuracy, point": Kind(
            headers={"Infer-Min-Accuracy": f"{point};point"},
            weight=2,
            allowed=lambda m: m.accuracy is not None and m.accuracy.value >= point,
        ),
        "accuracy and latency": Kind(
            headers={**latency, "Infer-Min-Accuracy": str(floor)},
            weight=2,
            allowed=lambda m: sure(m) and quick(m),
        ),
        "drop": Kind(
            headers={"Infer-Max-Accuracy-Drop": str(drop)},
            weight=2,
            allowed=lambda m: (
                m.accuracy is not None
                and 100 * (best.accuracy.value - m.accuracy.value) <= drop + 1e-9
            ),  # type: ignore[union-attr]
        ),
        "soft cost, hard accuracy": Kind(
            headers={"Infer-Max-Cost": "0.001;soft", "Infer-Min-Accuracy": str(floor)},
            weight=1,
            allowed=sure,
        ),
        "lenient": Kind(
            headers={"Infer-Min-Accuracy": "0.999", "Prefer": "handling=lenient"}, weight=1
        ),
        "cheapest": Kind(headers={"Infer-Objective": "cost"}, weight=2),
        "urgent": Kind(headers={"Priority": "u=0", "Infer-Objective": "latency"}, weight=1),
        "pin best": pin("best"),
        "pin fast": pin("fast"),
        "pin mid": pin("mid"),
        "allow two": pin("mid", "fast"),
        "pin glacial": Kind(
            headers={"Infer-Variants": '"glacial"'},
            weight=0.03,
            allowed=lambda m: m.variant == "glacial",
        ),
        "pin extra": pin("extra-0"),
    }


def check(name: str, kind: Kind, x: np.ndarray, reply: Reply, ladder: Ladder, tally: Tally) -> None:
    """Hold one reply against what was asked."""
    tally.statuses[reply.status] += 1
    if reply.status in (404, 409) and kind.may_be_gone:
        return
    if reply.status != 200:
        tally.broken.append(f"{name}: {reply.status} {reply.body[:300]!r}")
        return
    variant = reply.variant
    tally.variants[variant] += 1
    manifests = MANIFESTS
    if variant not in manifests:
        manifests.update(ladder.manifests())
    answer = reply.json
    if answer["variant"] != variant:
        tally.broken.append(f"{name}: header says {variant}, body {answer['variant']}")
    if not kind.allowed(manifests[variant]):
        tally.broken.append(f"{name}: {variant} may not answer it")
    found = np.array(answer["outputs"]["logits"], dtype=np.float32)
    if not np.allclose(found, ladders.outputs(variant, x), rtol=1e-4, atol=1e-4):
        tally.broken.append(f"{name}: the outputs are not those of {variant}")
    total = re.search(r"total;dur=([0-9.]+)", reply.headers["server-timing"])
    assert total is not None
    if "Infer-Max-Latency-Ms" in kind.headers and float(total[1]) > BUDGET_MS:
        tally.broken.append(f"{name}: {total[1]} ms on {variant}")


MANIFESTS: dict[str, Manifest] = {}


async def switch(gateway: world.Gateway, folder: Path, tally: Tally, done: asyncio.Event) -> None:
    """Register, activate and deactivate until the count is full."""
    rng = random.Random(2)
    present: list[str] = []
    active = {"mid"}
    async with Caller(gateway.port, gateway.key) as caller:

        async def change(name: str, to: str) -> None:
            reply = await caller.ask("POST", f"/v1/models/{MODEL}/variants/{name}/{to}")
            assert reply.status == 200, reply.body
            (active.add if to == "activate" else active.discard)(name)
            tally.switches[to] += 1

        while tally.switches.total() < SWITCHES:
            if tally.switches["register"] <= tally.switches.total() * REGISTRATIONS // SWITCHES:
                name = f"extra-{tally.switches['register']}"
                content = ladders.onnx(folder, name).read_bytes()
                digest = hashlib.sha256(content).hexdigest()
                with gateway.client() as client:
                    put = await asyncio.to_thread(
                        client.put, f"/v1/blobs/{digest}", content=content
                    )
                assert put.status_code == 201, put.text
                reply = await caller.ask(
                    "POST",
                    f"/v1/models/{MODEL}/variants",
                    {"name": name, "artifact": {"digest": digest}},
                    {"Prefer": "wait=60"},
                )
                assert reply.status == 201 and reply.json["state"] == "active", reply.body
                present.append(name)
                active.add(name)
                tally.switches["register"] += 1
                continue
            name = rng.choice([*present, "mid"])
            await change(name, "deactivate" if name in active else "activate")
    done.set()


async def drill(gateway: world.Gateway, ladder: Ladder, folder: Path) -> Tally:
    tally = Tally()
    MANIFESTS.clear()
    MANIFESTS.update(ladder.manifests())
    wanted = kinds(MANIFESTS)
    names = list(wanted)
    weights = [wanted[name].weight for name in names]
    rng = random.Random(1)
    switched = asyncio.Event()
    one_glacial = asyncio.Semaphore(1)

    async def act(caller: Caller) -> None:
        while tally.sent.total() < REQUESTS or not switched.is_set():
            name = rng.choices(names, weights)[0]
            tally.sent[name] += 1
            x = models.tiny_rows(rng.choice((1, 1, 1, 2, 5, 8)), seed=tally.sent.total())
            body = {"model": MODEL, "inputs": x.tolist()}
            if name == "pin glacial":
                async with one_glacial:
                    reply = await caller.infer(body, wanted[name].headers)
            else:
                reply = await caller.infer(body, wanted[name].headers)
            check(name, wanted[name], x, reply, ladder, tally)

    async with asyncio.TaskGroup() as group:
        group.create_task(spread(gateway.port, gateway.key, concurrency=CONCURRENCY, act=act))
        group.create_task(switch(gateway, folder, tally, switched))
    return tally


@pytest.mark.slow
def test_ten_thousand_requests_while_variants_come_and_go(
    ladder: Ladder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with world.gateway(ladder.root, ladder.key, "--workers", "2", env=ladders.ENV) as gateway:
        tally = asyncio.run(drill(gateway, ladder, tmp_path))
        with gateway.client() as client:
            metrics = client.get("/metrics").text
    with capsys.disabled():
        print(
            f"\n  {tally.sent.total()} requests of {len(tally.sent)} kinds, "
            f"{tally.switches.total()} switches {dict(tally.switches)}: "
            f"statuses {dict(tally.statuses)}, variants {dict(tally.variants)}"
        )
    assert tally.broken == []
    assert tally.sent.total() >= REQUESTS
    assert tally.switches.total() >= SWITCHES
    assert set(tally.statuses) <= {200, 404, 409}
    assert {"best", "mid", "fast", "glacial", "extra-0"} <= set(tally.variants)
    assert not re.search(r"gearshift_constraint_violations_total\{.*\} [^0]", metrics)
    assert "Traceback" not in "".join(gateway.log)
    drilled(
        "H13",
        "requests of twenty kinds while variants are registered, activated and deactivated",
        {
            "requests": tally.sent.total(),
            "switches": tally.switches.total(),
            "answered": tally.statuses[200],
            "refused, not active": tally.statuses[404] + tally.statuses[409],
            "wrong": len(tally.broken),
        },
    )
    assert "never retrieved" not in "".join(gateway.log)
