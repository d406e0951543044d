"""Start-up and shutdown of `gearshift serve`."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ladder as ladders
from tests import world
from tests.calls import Caller, Reply, spread
from tests.end_to_end.test_registration import gone
from tests.faults.gateways import last_calls
from tests.ladder import MODEL, Ladder

HEAVY = ("torch", "onnxruntime", "openvino", "onnx", "matplotlib", "nncf")
READY_S = 2.0
RSS_BYTES = 150e6
BODY = {"model": MODEL, "inputs": [1.0, 2.0, 3.0, 4.0]}


@contextlib.contextmanager
def serving(ladder: Ladder, *arguments: str, **env: str) -> Iterator[world.Gateway]:
    with world.gateway(ladder.root, ladder.key, *arguments, env={**ladders.ENV, **env}) as gateway:
        yield gateway
    log = "".join(gateway.log)
    assert "Traceback" not in log
    assert "never retrieved" not in log


def mapped(pid: int) -> set[str]:
    """Names of the heavy libraries of which the process has mapped a file."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {name for name in HEAVY if f"/site-packages/{name}/" in maps}


def test_the_gateway_maps_no_heavy_library_and_stays_small(built_ladder: Ladder) -> None:
    with serving(built_ladder) as gateway, gateway.client() as client:
        assert client.post("/infer", json=BODY).status_code == 200
        assert mapped(gateway.process.pid) == set()
        (worker,) = gateway.workers()
        assert "onnxruntime" in mapped(worker)
        metrics = client.get("/metrics").text
        found = re.search(r"^process_resident_memory_bytes (\S+)", metrics, re.MULTILINE)
        assert found is not None
        assert float(found[1]) < RSS_BYTES


def slowdown() -> float:
    """How many times longer than alone this machine takes for something now; 1 when it is idle."""
    wall, cpu = time.perf_counter(), time.process_time()
    while time.process_time() - cpu < 0.2:
        pass
    return (time.perf_counter() - wall) / (time.process_time() - cpu)


def test_the_gateway_is_ready_in_two_seconds(
    built_ladder: Ladder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where other processes hold the cores, their share is taken off."""
    took, alone = [], []
    for _ in range(5):
        before, start = slowdown(), time.monotonic()
        with serving(built_ladder):
            took.append(time.monotonic() - start)
            alone.append(took[-1] / max(before, slowdown()))
        if took[-1] < READY_S:
            break
    with capsys.disabled():
        print(f"\n  ready after {took[-1]:.2f} s ({alone[-1]:.2f} s without the others' share)")
    assert min(alone) < READY_S


def test_an_empty_data_folder_is_served(tmp_path: Path) -> None:
    with world.gateway(tmp_path / "new", "") as gateway:
        shown = re.search(r"shown once: (gs_\S+)", "".join(gateway.log))
        assert shown is not None
        with gateway.client(shown[1]) as client:
            assert client.get("/v1/models").json() == {"models": [], "next": None}
            assert client.post("/infer", json=BODY).status_code == 404
            assert client.get("/metrics").status_code == 200
        with gateway.client("") as client:
            assert client.get("/v1/models").status_code == 401
    with world.gateway(tmp_path / "new", "") as gateway:
        assert "shown once" not in "".join(gateway.log)


def test_a_damaged_manifest_costs_its_variant_only(ladder: Ladder) -> None:
    manifest = ladder.manifests()["mid"].id
    (ladder.root / "manifests" / f"{manifest}.json").write_text("{")
    with serving(ladder) as gateway, gateway.client() as client:
        assert client.post("/infer", json=BODY).status_code == 200
        pinned = client.post("/infer", json=BODY, headers={"Infer-Variants": "mid"})
        assert pinned.status_code == 409
    assert "manifest_damaged" in "".join(gateway.log)


def test_sigterm_under_load_finishes_what_was_admitted_and_exits_with_0(
    ladder: Ladder,
) -> None:
    """Every request that the gateway took is answered; connections end between requests."""

    async def load(gateway: world.Gateway) -> tuple[list[Reply], float]:
        replies: list[Reply] = []
        stopped = False

        async def act(caller: Caller) -> None:
            while True:
                try:
                    replies.append(await caller.infer(BODY))
                except ConnectionError:
                    assert stopped
                    return

        async def slow(caller: Caller) -> None:
            reply = await caller.infer(BODY, {"Infer-Variants": '"glacial"'})
            assert stopped
            replies.append(reply)

        async def stop() -> float:
            nonlocal stopped
            await asyncio.sleep(0.5)
            stopped = True
            gateway.process.send_signal(signal.SIGTERM)
            for _ in range(100):  # each on a connection of its own: kept ones end as it leaves
                with contextlib.suppress(OSError):
                    async with Caller(gateway.port, "") as probe:
                        ready = await probe.ask("GET", "/readyz")
                        if ready.status == 503:
                            return ready.done_s
                await asyncio.sleep(0.005)
            return 0.0

        async with asyncio.TaskGroup() as group:
            group.create_task(spread(gateway.port, gateway.key, concurrency=4, act=act))
            group.create_task(spread(gateway.port, gateway.key, concurrency=1, act=slow))
            noticed = group.create_task(stop())
        return replies, noticed.result()

    with serving(ladder, "--workers", "2") as gateway:
        workers = gateway.workers()
        replies, noticed_s = asyncio.run(load(gateway))
        assert gateway.process.wait(10) == 0
        assert all(gone(worker) for worker in workers)
    assert {reply.status for reply in replies} == {200}
    assert "glacial" in {reply.variant for reply in replies}
    assert noticed_s > 0, "/readyz did not say 503 before the listener was closed"


@pytest.mark.option("drain_s")
def test_what_cannot_finish_in_time_is_answered_with_503(ladder: Ladder) -> None:
    with serving(ladder, GEARSHIFT_DRAIN_S="1.2") as gateway:
        replies = asyncio.run(last_calls(gateway, rows=20))
        assert gateway.process.wait(10) == 0
    statuses = sorted(reply.status for reply in replies)
    assert statuses[0] == 200
    assert statuses[-1] == 503
    refused = next(reply for reply in replies if reply.status == 503)
    assert refused.json["code"] == "draining"


def test_a_killed_gateway_takes_its_workers_along(ladder: Ladder) -> None:
    with world.gateway(ladder.root, ladder.key, "--workers", "2") as gateway:
        workers = gateway.workers()
        assert len(workers) == 2
        os.kill(gateway.process.pid, signal.SIGKILL)
        assert all(gone(worker) for worker in workers)


def refused(ladder: Ladder, *arguments: str) -> str:
    """What `gearshift serve` says when it refuses to start."""
    command = [sys.executable, "-m", "app.cli", "--data-dir", str(ladder.root), "serve"]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_a_port_in_use_is_one_line_and_status_2(ladder: Ladder) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "cannot listen on" in refused(ladder, "--port", str(taken.getsockname()[1]))


def test_an_unknown_policy_is_one_line_and_status_2(ladder: Ladder) -> None:
    assert "unknown policy 'best'" in refused(ladder, "--port", "0", "--policy", "best")
