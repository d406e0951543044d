"""A gateway with one worker, asked in one line, for drills."""

import asyncio
import contextlib
import re
import signal
import time
from collections.abc import Iterator

import httpx

from tests import ladder as ladders
from tests import world
from tests.calls import Caller, Reply, spread
from tests.ladder import MODEL, Ladder

ROW = [1.0, 2.0, 3.0, 4.0]
BODY = {"model": MODEL, "inputs": ROW}


@contextlib.contextmanager
def serving(ladder: Ladder, *arguments: str, **env: str) -> Iterator[world.Gateway]:
    """A gateway with one worker whose log must stay clean."""
    with world.gateway(ladder.root, ladder.key, *arguments, env={**ladders.ENV, **env}) as gateway:
        yield gateway
    log = "".join(gateway.log)
    assert "Traceback" not in log
    assert "never retrieved" not in log
    assert gateway.process.returncode == 0


def infer(client: httpx.Client, inputs: object = ROW, **headers: str) -> httpx.Response:
    """One request; `infer_variants="int8"` and the like are its headers."""
    return client.post(
        "/infer",
        json={"model": MODEL, "inputs": inputs},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


async def last_calls(gateway: world.Gateway, *, rows: int) -> list[Reply]:
    """What four callers of `glacial` are answered when the gateway is told to end meanwhile."""
    replies = []

    async def act(caller: Caller) -> None:
        body = {**BODY, "inputs": [ROW] * rows}
        replies.append(await caller.infer(body, {"Infer-Variants": '"glacial"'}))

    async with asyncio.TaskGroup() as group:
        group.create_task(spread(gateway.port, gateway.key, concurrency=4, act=act))
        await asyncio.sleep(0.3)
        gateway.process.send_signal(signal.SIGTERM)
    return replies


def pin(name: str) -> dict[str, str]:
    return {"infer_variants": f'"{name}"'}


def lost(client: httpx.Client, cause: str) -> float:
    """Workers lost to this cause so far."""
    text = client.get("/metrics").text
    pattern = rf'gearshift_worker_restarts_total\{{cause="{cause}",worker="0"\}} (\S+)'
    found = re.search(pattern, text)
    return 0.0 if found is None else float(found[1])


def until(condition: object, within_s: float = 10.0) -> float:
    """Poll until the condition holds and return the seconds that it took."""
    start = time.monotonic()
    assert callable(condition)
    while time.monotonic() - start < within_s:
        if condition():
            return time.monotonic() - start
        time.sleep(0.01)
    raise AssertionError(f"not within {within_s} s")
