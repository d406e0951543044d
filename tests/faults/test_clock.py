"""Clocks that jump, and a gateway that is stopped for a while (group C)."""

import asyncio
import os
import signal
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest

from tests import ladder as ladders
from tests.calls import Caller, Reply, spread
from tests.faults.gateways import BODY, infer, lost, pin, serving
from tests.faults.table import drilled
from tests.ladder import Ladder
from variants.data_folder import open_data_folder

PER_S = 2
SLACK_S = 5.0
"""What other programs on the machine may take."""
STOPS = 1
STOP_S = 1.7
HANG_S = 1.0


def preloaded() -> Path:
    """Debian's library that lies about the time."""
    name = "faketime/libfaketimeMT.so.1"
    for path in (*Path("/usr/lib").glob(f"*/{name}"), *Path(".venv/servers").glob(f"**/{name}")):
        return path.absolute()
    pytest.skip("libfaketime is not installed")


class WallClock:
    """The wall clock of a gateway; its monotonic one is left as it is."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)
        self.env = {
            "LD_PRELOAD": str(preloaded()),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        """So many seconds before or after the true time."""
        self._file.write_text(f"{seconds:+d}\n")

    def wait(self, client: httpx.Client, seconds: int) -> None:
        """Until the gateway has noticed."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            date = parsedate_to_datetime(client.get("/healthz").headers["date"])
            if abs((date - datetime.now(UTC)).total_seconds() - seconds) < 5:
                return
            time.sleep(0.05)
        raise AssertionError("the gateway's clock did not move")


def just_before(instant: str) -> int:
    """Seconds from now to two seconds before an instant (UTC)."""
    return round((datetime.fromisoformat(instant) - datetime.now(UTC)).total_seconds()) - 2


def statuses_of(replies: list[Reply]) -> Counter[int]:
    return Counter(reply.status for reply in replies)


@pytest.mark.slow
def test_a_wall_clock_that_jumps_moves_nothing_but_expiry_and_days(
    ladder: Ladder, tmp_path: Path
) -> None:
    """By an hour; over the end of a zone's summer time; over midnight, back and over it again,
    as with a leap second."""
    clock = WallClock(tmp_path / "clock")
    limited: list[Reply] = []
    paying: list[Reply] = []
    winter, midnight = "2027-10-31T01:00:00+00:00", "2026-12-31T00:00:00+00:00"
    jumps: tuple[tuple[int | str, float], ...] = (
        (3600, 1.0),
        (-3600, 1.0),
        (winter, 2.5),
        (midnight, 2.5),
        (midnight, 2.5),
    )
    with serving(ladder, **clock.env, TZ="Europe/Berlin") as gateway, gateway.client() as client:

        def made(name: str, **rest: object) -> str:
            body = {"name": name, "scopes": ["infer", "read"], **rest}
            return str(client.post("/v1/keys", json=body).raise_for_status().json()["key"])

        slow = made("slow", limits={"requests_per_s": PER_S, "max_latency_ms": 5000})
        rich = made("rich", limits={"usd_per_day": 100})
        ends = datetime.now(UTC) + timedelta(minutes=30)
        ending = made("ending", expires_at=ends.isoformat())
        done = False

        async def load() -> None:
            async def act_on(replies: list[Reply], caller: Caller) -> None:
                while not done:
                    replies.append(await caller.infer(BODY))
                    await asyncio.sleep(0.005)

            async with asyncio.TaskGroup() as group:
                for key, replies in ((slow, limited), (rich, paying)):
                    group.create_task(
                        spread(
                            gateway.port,
                            key,
                            concurrency=1,
                            act=lambda caller, replies=replies: act_on(replies, caller),  # type: ignore[misc]
                        )
                    )
                group.create_task(asyncio.to_thread(jump))

        def jump() -> None:
            nonlocal done
            try:
                with gateway.client(ending) as key:
                    for to, stay_s in jumps:
                        seconds = just_before(to) if isinstance(to, str) else to
                        clock.set(seconds)
                        clock.wait(client, seconds)
                        time.sleep(stay_s)  # a key ends at most a second after its time
                        expected = 401 if seconds > 1800 else 200
                        end = time.monotonic() + SLACK_S
                        while key.get("/v1/models").status_code != expected:
                            assert time.monotonic() < end, seconds
            finally:
                done = True

        start = time.monotonic()
        asyncio.run(load())
        took_s = time.monotonic() - start
        usage = httpx.get(
            f"{gateway.url}/v1/usage",
            headers={"authorization": f"Bearer {rich}"},
            trust_env=False,
        ).json()
    passed = statuses_of(limited)
    assert set(passed) == {200, 429}
    assert PER_S * (took_s - 1) * 0.8 <= passed[200] <= PER_S * (took_s + 1) + 1
    assert statuses_of(paying) == {200: len(paying)}
    assert sum(day["requests"] for day in usage["days"]) == len(paying)
    assert {"2026-12-30", "2026-12-31"} <= {day["day"] for day in usage["days"]}
    drilled(
        "C1",
        "the wall clock jumps under load: by ±1 h, over the end of summer time, over midnight, "
        "back and over it again, as with a leap second; a key's end and its days follow it, "
        "nothing else",
        {
            "jumps": len(jumps),
            "requests": len(limited) + len(paying),
            "failed": 0,
            "seconds": round(took_s, 1),
        },
    )


@pytest.mark.slow
def test_a_gateway_that_was_stopped_blames_no_worker(ladder: Ladder) -> None:
    with open_data_folder(ladder.root) as data:
        ladders.publish_fake(data, "napper", service_s=0.04)
    replies: list[Reply] = []
    with serving(ladder, GEARSHIFT_HANG_S=str(HANG_S)) as gateway, gateway.client() as client:
        done = False

        async def load() -> None:
            async def act(caller: Caller) -> None:
                while not done:
                    replies.append(await caller.infer(BODY, {"Infer-Variants": '"napper"'}))

            async with asyncio.TaskGroup() as group:
                group.create_task(spread(gateway.port, gateway.key, concurrency=3, act=act))
                group.create_task(asyncio.to_thread(stop))

        def stop() -> None:
            nonlocal done
            try:
                for _ in range(STOPS):
                    time.sleep(0.2)
                    os.kill(gateway.process.pid, signal.SIGSTOP)
                    time.sleep(STOP_S)
                    os.kill(gateway.process.pid, signal.SIGCONT)
                time.sleep(0.2)
            finally:
                done = True

        asyncio.run(load())
        assert statuses_of(replies) == {200: len(replies)}
        assert lost(client, "hang") == 0
        limit = {"infer_max_latency_ms": "1000"}
        after = [infer(client, **limit, **pin("fast")).status_code for _ in range(20)]
        assert after == [200] * 20, "no estimate was spoilt by the time that nothing ran"
    drilled(
        "C4",
        f"the gateway is stopped for {STOP_S} s (hang_s = {HANG_S:g}) and goes on",
        {"stops": STOPS, "requests": len(replies), "failed": 0, "workers lost": 0},
    )
