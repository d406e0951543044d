"""Uploads under pressure: a hundred at once beside inference; a disk that fills up (U14, K1)."""

import asyncio
import contextlib
import hashlib
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from app import signing
from tests import ladder as ladders
from tests import world
from tests.calls import Caller, Reply
from tests.faults.table import drilled
from tests.ladder import MODEL, Ladder
from variants.errors import StorageFull

UPLOADS = 100
BLOB_BYTES = int(os.environ.get("GEARSHIFT_TEST_BLOB_BYTES", str(2 << 20)))
REQUESTS = int(os.environ.get("GEARSHIFT_TEST_UPLOAD_REQUESTS", "300"))
BODY = {"model": MODEL, "inputs": [1.0, 2.0, 3.0, 4.0]}
PACE_S = 0.005
FULL_BYTES = 24 << 20


async def steady(gateway: world.Gateway, requests: int) -> list[Reply]:
    """Requests one after another, five milliseconds apart."""
    replies = []
    async with Caller(gateway.port, gateway.key) as caller:
        for _ in range(requests):
            replies.append(await caller.infer(BODY, {"Infer-Variants": '"fast"'}))
            await asyncio.sleep(PACE_S)
    return replies


def uploads(port: int, key: str) -> Counter[int]:
    """All clients at once, in a process of their own; their answers by status."""

    async def all_at_once() -> Counter[int]:
        end = time.monotonic() + 60
        seen = await asyncio.gather(*(upload(port, key, n, end) for n in range(UPLOADS)))
        return sum(seen, Counter[int]())

    return asyncio.run(all_at_once())


async def upload(port: int, key: str, number: int, deadline_s: float) -> Counter[int]:
    """One client that uploads, and comes again when it is told to; its answers by status."""
    content = number.to_bytes(4, "big") * (BLOB_BYTES // 4)
    path = f"/v1/blobs/{hashlib.sha256(content).hexdigest()}"
    head = (
        f"PUT {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
    )
    seen: Counter[int] = Counter()
    while time.monotonic() < deadline_s:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            writer.write(head.encode())
            for start in range(0, len(content), 1 << 16):
                writer.write(content[start : start + (1 << 16)])
                await writer.drain()
                if reader._buffer:  # type: ignore[attr-defined]  # it has answered already
                    break
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            answer = (await reader.readuntil(b"\r\n\r\n")).decode()
            status = int(answer.split()[1])
            seen[status] += 1
            assert status in (200, 201, 429), answer
            if status == 429:
                assert "retry-after: 1" in answer.lower()
        writer.close()
        if seen[201] or seen[200]:
            return seen
        await asyncio.sleep(0.2)
    return seen


def p99_ms(replies: list[Reply]) -> float:
    return round(float(np.quantile([reply.seconds for reply in replies], 0.99)) * 1e3, 2)


def test_a_hundred_uploads_at_once_do_not_hold_up_inference(ladder: Ladder) -> None:
    async def both(gateway: world.Gateway) -> tuple[list[Reply], list[Reply], Counter[int]]:
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as clients:
            await loop.run_in_executor(clients, time.monotonic)  # it has started
            await steady(gateway, 50)
            alone = await steady(gateway, REQUESTS)
            sending = loop.run_in_executor(clients, uploads, gateway.port, gateway.key)
            beside = await steady(gateway, REQUESTS)
            return alone, beside, await sending

    with world.gateway(ladder.root, ladder.key, env=ladders.ENV) as gateway:
        alone, beside, answers = asyncio.run(both(gateway))
    assert "Traceback" not in "".join(gateway.log)
    assert {reply.status for reply in [*alone, *beside]} == {200}
    assert answers[201] == UPLOADS
    # The hundred clients share the cores, so this is far above what uploads cost by themselves.
    assert p99_ms(beside) < max(100.0, 20 * p99_ms(alone)), (p99_ms(alone), p99_ms(beside))
    drilled(
        "U14",
        f"{UPLOADS} uploads of {BLOB_BYTES >> 20} MiB at once beside inference",
        {
            "stored": answers[201],
            "told to wait (429)": answers[429],
            "requests": len(beside),
            "failed": 0,
            "p99 ms alone": p99_ms(alone),
            "p99 ms beside": p99_ms(beside),
        },
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few mebibytes; skips where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={FULL_BYTES}", "none", str(place)],
        check=False,
        capture_output=True,
        text=True,
    )
    if made.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_signature_that_finds_no_room_is_told_so(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library that checks it reads files only."""
    pytest.importorskip("model_signing")
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    signature = {"payload": "x" * (FULL_BYTES + 1)}
    with pytest.raises(StorageFull):
        signing.check(small_disk / "new.onnx", signature, small_disk / "key.pub")
    assert not list(small_disk.iterdir())


def test_a_full_disk_refuses_uploads_and_nothing_else(
    built_ladder: Ladder, small_disk: Path
) -> None:
    """The watermark is off, so that the disk itself says no, in the middle of a body."""
    ladder = built_ladder.copy(small_disk / "data")
    env = {**ladders.ENV, "GEARSHIFT_MIN_FREE_BYTES": "0"}
    refused = served = 0
    with (
        world.gateway(ladder.root, ladder.key, env=env) as gateway,
        gateway.client() as client,
    ):
        for number in range(5):
            content = os.urandom(FULL_BYTES)
            path = f"/v1/blobs/{hashlib.sha256(content).hexdigest()}"
            given = {"upload-offset": "0"} if number % 2 else {}
            # The length is not told, so there is nothing to refuse before the disk is full.
            pieces = (content[at : at + 65536] for at in range(0, len(content), 65536))
            with contextlib.suppress(httpx.WriteError, httpx.ReadError):
                method = "PATCH" if given else "PUT"
                answer = client.request(method, path, content=pieces, headers=given)
                assert (answer.status_code, answer.json()["code"]) == (507, "storage-full")
                assert int(answer.headers["retry-after"]) > 0
                refused += 1
            client.delete(path)
            end = time.monotonic() + 5
            while list((ladder.root / "uploads").iterdir()) and time.monotonic() < end:
                time.sleep(0.02)
            assert list((ladder.root / "uploads").iterdir()) == []
            assert client.post("/infer", json=BODY).status_code == 200
            served += 1
        small = b"small enough"
        path = f"/v1/blobs/{hashlib.sha256(small).hexdigest()}"
        assert client.put(path, content=small).status_code == 201
    assert "Traceback" not in "".join(gateway.log)
    assert refused > 0
    drilled(
        "K1",
        "uploads to a disk that fills up in the middle",
        {"uploads": 5, "told 507": refused, "inference served between": served, "left behind": 0},
    )
