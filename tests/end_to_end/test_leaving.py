"""How a gateway leaves: what it says, what it still takes, and what it must give up."""

import asyncio
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import ladder as ladders
from tests import world
from tests.faults.gateways import last_calls
from tests.ladder import MODEL, Ladder
from tests.raw import Connection, assert_problem, request

BODY = {"model": MODEL, "inputs": [1.0, 2.0, 3.0, 4.0]}
DELAY_S = 1.0


@pytest.mark.option("drain_delay_s")
def test_from_the_signal_on_it_is_not_ready_and_takes_what_comes_for_a_while(
    ladder: Ladder,
) -> None:
    """Connections are opened and used all the while; none is refused, and each is ended."""
    env = {**ladders.ENV, "GEARSHIFT_DRAIN_DELAY_S": str(DELAY_S)}
    with world.gateway(ladder.root, ladder.key, env=env) as gateway:
        kept = Connection(gateway.port)
        ask = request("GET", "/healthz")
        kept.send(ask)
        answer = kept.answer()
        assert answer is not None and "connection" not in answer.headers
        gateway.process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        time.sleep(0.05)
        kept.send(ask)
        answer = kept.answer()
        assert answer is not None and answer.headers["connection"] == "close"
        assert kept.ended(1)
        kept.close()
        served = 0
        while time.monotonic() - told < DELAY_S * 0.8:
            with gateway.client() as client:
                ready = client.get("/readyz")
                assert (ready.status_code, ready.headers["connection"]) == (503, "close")
                infer = client.post("/infer", json=BODY)
                assert (infer.status_code, infer.headers["connection"]) == (200, "close")
                assert infer.headers.get_list("connection") == ["close"]
                served += 1
        assert gateway.process.wait(10) == 0
        assert served > 3
        assert time.monotonic() - told > DELAY_S
        with pytest.raises(httpx.ConnectError), gateway.client() as client:
            client.get("/readyz")


def test_a_second_signal_leaves_out_the_wait(ladder: Ladder) -> None:
    env = {**ladders.ENV, "GEARSHIFT_DRAIN_DELAY_S": "30"}
    with world.gateway(ladder.root, ladder.key, env=env) as gateway:
        gateway.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(10) == 0


def test_what_has_begun_and_cannot_finish_is_answered_and_listed(ladder: Ladder) -> None:
    """A variant that takes a second a batch, and a gateway that has a tenth of it."""

    env = {**ladders.ENV, "GEARSHIFT_DRAIN_S": "0"}
    with world.gateway(ladder.root, ladder.key, env=env) as gateway:
        replies = asyncio.run(last_calls(gateway, rows=32))
        assert gateway.process.wait(10) == 0
    assert [(reply.status, reply.json["code"]) for reply in replies] == [(503, "draining")] * 4
    log = "".join(gateway.log)
    assert '"what": "waiting"' in log and '"what": "running"' in log
    assert f'"requests": {{"{MODEL}": 3}}' in log and f'"requests": {{"{MODEL}": 1}}' in log
    assert "Traceback" not in log


def test_a_hangup_reads_anew_and_ends_nothing(ladder: Ladder) -> None:
    with (
        world.gateway(ladder.root, ladder.key, env=ladders.ENV) as gateway,
        gateway.client() as client,
    ):
        for _ in range(3):
            gateway.process.send_signal(signal.SIGHUP)
            assert client.post("/infer", json=BODY).status_code == 200
        end = time.monotonic() + 5
        while "".join(gateway.log).count('"reloads"') < 1 and time.monotonic() < end:
            time.sleep(0.02)
        assert client.get("/readyz").status_code == 200
        assert gateway.process.poll() is None
    assert '"reloads"' in "".join(gateway.log)
    assert "Traceback" not in "".join(gateway.log)


def logged(gateway: world.Gateway, event: str, count: int = 1) -> dict[str, Any]:
    """What the log says the last time of an event that comes so many times."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        lines = [line for line in list(gateway.log) if f'"event": "{event}"' in line]
        if len(lines) >= count:
            found: dict[str, Any] = json.loads(lines[-1])
            return found
        time.sleep(0.02)
    raise AssertionError("".join(gateway.log))


@pytest.mark.option("log_level")
def test_a_hangup_reads_the_settings_file_anew(ladder: Ladder, tmp_path: Path) -> None:
    file = tmp_path / "gearshift.toml"
    file.write_text("max_body_bytes = 500\nworkers = 1\n")
    large = {"model": MODEL, "inputs": [[1.0, 2.0, 3.0, 4.0]] * 30}
    with (
        world.gateway(ladder.root, ladder.key, env=ladders.ENV, config=file) as gateway,
        gateway.client() as client,
    ):

        def reload(text: str) -> None:
            file.write_text(text)
            gateway.process.send_signal(signal.SIGHUP)

        def status() -> int:
            return client.post("/infer", json=large).status_code

        def longest() -> str | None:
            """The deadline that is allowed, where it was cut."""
            asked = {"Infer-Max-Latency-Ms": "60000"}
            answer = client.post("/infer", json=BODY, headers=asked).raise_for_status()
            return answer.headers.get("infer-max-latency-ms")

        assert (status(), longest()) == (413, None)
        reload("max_body_bytes = 100000\nmax_latency_s = 2.5\nworkers = 2\n")
        line = logged(gateway, "options_reloaded")
        assert line["changed"] == ["max_body_bytes", "max_latency_s"]
        assert line["at_restart"] == ["workers"]
        assert (status(), longest()) == (200, "2500.000")
        assert len(gateway.workers()) == 1

        wrong = {
            "max_body_bytes = 5\nmax_latency_s = 'soon'\n": f"{file.name}:2: max_latency_s",
            "max_body_byte = 5\n": "nearest valid key: 'max_body_bytes'",
            "max_body_bytes = \n": file.name,
            "max_body_bytes = " + "[" * 3000: "nested too deep",
            "max_body_bytes = " + "9" * 5000: "4300 digits",
        }
        for number, (text, words) in enumerate(wrong.items(), 1):
            reload(text)
            assert words in logged(gateway, "options_refused", number)["error"]
            assert (status(), longest()) == (200, "2500.000")

        reload("max_body_bytes = 500\nlog_level = 'error'\n")
        until(lambda: status() == 413)
        until(lambda: sum('"reloads"' in line for line in gateway.log) == 2 + len(wrong))
        lines = len(gateway.log)
        reload("max_body_bytes = 100000\nlog_level = 'error'\n")
        until(lambda: status() == 200)
        assert len(gateway.log) == lines
    assert "Traceback" not in "".join(gateway.log)


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not done():
        assert time.monotonic() < end


@pytest.mark.parametrize("drain_s", ["0", "0.3"])
def test_whatever_is_left_at_the_end_is_told_so(ladder: Ladder, drain_s: str) -> None:
    """Bodies that do not come: each is answered with 503, and nothing is taken for a bug."""
    blob = f"/v1/blobs/{'0' * 64}"
    chunked, offset = ("transfer-encoding", "chunked"), ("upload-offset", "0")
    long = ("content-length", "500")
    requests = [
        request("PUT", blob, b"abc", key=ladder.key, headers=[long]),
        request("PATCH", blob, b"abc", key=ladder.key, headers=[long, offset]),
        request("POST", "/infer", b"5\r\n{", key=ladder.key, headers=[chunked]),
        request("POST", "/infer", b"{", key=ladder.key, headers=[long]),
        request("POST", "/v1/keys", b"{", key=ladder.key, headers=[long]),
    ]
    env = {**ladders.ENV, "GEARSHIFT_DRAIN_S": drain_s}
    with world.gateway(ladder.root, ladder.key, env=env) as gateway:
        connections = [Connection(gateway.port) for _ in requests]
        for connection, data in zip(connections, requests, strict=True):
            connection.send(data)
        time.sleep(0.3)  # for the requests to begin
        told = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        for connection in connections:
            answer = connection.answer()
            assert answer is not None
            assert_problem(answer, 503, "draining")
            assert answer.headers["connection"] == "close"
            assert int(answer.headers["retry-after"]) >= 1
            connection.close()
        assert gateway.process.wait(10) == 0
        assert time.monotonic() - told < float(drain_s) + 2
    assert "Traceback" not in "".join(gateway.log)


def test_who_waits_for_a_registration_does_not_hold_up_the_exit(
    ladder: Ladder, tmp_path: Path
) -> None:
    """A trial of many seconds, a caller that waits for it, and one that follows it."""
    env = {**ladders.ENV, "GEARSHIFT_DRAIN_S": "20", "GEARSHIFT_PROFILE_S": "20"}
    variants = f"/v1/models/{MODEL}/variants"
    with world.gateway(ladder.root, ladder.key, env=env) as gateway:
        with gateway.client() as client:
            digest = world.upload(client, ladders.onnx(tmp_path, "extra-1"))
        body = json.dumps({"name": "extra-1", "artifact": {"digest": digest}}).encode()
        prefer = [("prefer", "wait=60")]
        with Connection(gateway.port) as waits, Connection(gateway.port) as follows:
            waits.send(request("POST", variants, body, key=gateway.key, headers=prefer))
            with gateway.client() as client:
                until(lambda: client.get(f"{variants}/extra-1").status_code == 200)
            follows.send(request("GET", f"{variants}/extra-1/events", key=gateway.key))
            assert follows.readable(5)
            told = time.monotonic()
            gateway.process.send_signal(signal.SIGTERM)
            waited, followed = waits.answer(), follows.answer()
            assert waited is not None and waited.status == 202
            assert followed is not None and followed.body.endswith(b"\n\n")
            assert gateway.process.wait(10) == 0
            assert time.monotonic() - told < 3
    assert "Traceback" not in "".join(gateway.log)


def test_a_caller_that_takes_no_answer_holds_up_the_exit_no_longer_than_others(
    ladder: Ladder,
) -> None:
    env = {**ladders.ENV, "GEARSHIFT_DRAIN_S": "1"}
    with world.gateway(ladder.root, ladder.key, env=env) as gateway:
        ask = request("GET", "/openapi.json", key=gateway.key)
        with Connection(gateway.port, receive_bytes=4096) as connection:
            connection.pour(ask * 400)
            time.sleep(0.5)
            told = time.monotonic()
            gateway.process.send_signal(signal.SIGTERM)
            assert gateway.process.wait(10) == 0
            assert time.monotonic() - told < 5
    log = "".join(gateway.log)
    assert "Traceback" not in log and '"bug"' not in log
