"""Many requests on one connection: each is answered as it would be on a connection of its own."""

import contextlib
import json
import time
from pathlib import Path

import pytest

from tests.edge import Edge
from tests.raw import Answer, Connection, request

CHUNKED = [("transfer-encoding", "chunked")]


def body(values: int = 4, digits: int = 1) -> bytes:
    """A body of this length, more or less; valid with four values."""
    return json.dumps({"model": "tiny", "inputs": [10**digits] * values}).encode()


def plain(edge: Edge, content: bytes, *headers: tuple[str, str]) -> bytes:
    return request("POST", "/infer", content, key=edge.key, headers=headers)


def said(answer: Answer | None) -> tuple[int, str, object]:
    """What counts of an answer."""
    assert answer is not None
    found = answer.json()
    return answer.status, answer.headers["content-type"], found.get("code", found.get("variant"))


def test_alike_and_different_requests_in_turns(edge: Edge) -> None:
    limit = 4 << 20
    requests = [
        plain(edge, body()),
        plain(edge, body()),
        plain(edge, body(digits=7)),
        plain(edge, body(values=3)),
        plain(edge, b"{"),
        plain(edge, b""),
        plain(edge, body(), ("infer-variants", "int8")),
        plain(edge, body(), ("infer-variants", "int8"), ("x-request-id", "seven")),
        plain(edge, body(digits=3), ("infer-variants", "int8"), ("x-request-id", "seven")),
        plain(edge, body(), ("infer-nonsense", "1")),
        request("GET", "/healthz"),
        request("POST", "/infer", body(), key="gs_wrong_key"),
        plain(edge, body(values=1 << 20)[:limit]),
        plain(edge, body()),
    ]
    with edge.connect("valid") as connection:
        for sent in requests:
            alone = edge.send("valid", sent)
            connection.send(sent)
            answer = connection.answer()
            if sent.startswith(b"GET"):
                assert answer is not None and answer.json() == alone.json()
                continue
            assert said(answer) == said(alone), sent[:300]
            if b"seven" in sent:
                assert answer is not None and answer.headers["x-request-id"] == "seven"


def test_a_head_as_before_with_a_length_that_is_none(edge: Edge) -> None:
    good = plain(edge, body())
    length = b"content-length: %d" % len(body())
    assert length in good
    for wrong in (b"content-length: -1", b"content-length: 0x2a", b"content-length: "):
        with edge.connect("valid") as connection:
            for _ in range(2):
                connection.send(good)
                assert said(connection.answer())[0] == 200
            connection.send(good.replace(length, wrong))
            answer = connection.answer()
            assert answer is not None and answer.status in (400, 411)


@pytest.mark.parametrize("cut", [1, 30, 150, -60, -1])
def test_alike_requests_may_come_in_pieces(edge: Edge, cut: int) -> None:
    good = plain(edge, body())
    with edge.connect("valid") as connection:
        for _ in range(3):
            connection.send(good[:cut])
            assert not connection.readable(0.02)
            connection.send(good[cut:])
            assert said(connection.answer())[0] == 200


def test_alike_requests_may_come_all_at_once(edge: Edge) -> None:
    one, other = plain(edge, body()), plain(edge, body(values=3))
    with edge.connect("valid") as connection:
        connection.send(one)
        assert said(connection.answer())[0] == 200
        connection.send(one + other + one + one[:80])
        assert [said(connection.answer())[0] for _ in range(3)] == [200, 422, 200]
        connection.send(one[80:])
        assert said(connection.answer())[0] == 200


def test_a_request_without_waiting_for_the_answer_before(edge: Edge) -> None:
    slow = json.dumps({"model": "patient", "inputs": [[100]]}).encode()
    quick = plain(edge, body())
    with edge.connect("valid") as connection:
        connection.send(quick)
        connection.answer()
        connection.send(plain(edge, slow))
        for _ in range(3):
            connection.readable(0.01)
            connection.send(quick)
        models = []
        for _ in range(4):
            answer = connection.answer()
            assert answer is not None
            models.append(answer.json()["model"])
        assert models == ["patient", "tiny", "tiny", "tiny"]


def test_a_revoked_key_ends_on_an_open_connection(edge: Edge) -> None:
    with edge.gateway.client() as client:
        key = client.post("/v1/keys", json={"name": "x", "scopes": ["infer"]}).json()["key"]
        sent = request("POST", "/infer", body(), key=key)
        with Connection(edge.port) as connection:
            for _ in range(3):
                connection.send(sent)
                assert said(connection.answer())[0] == 200
            client.delete(f"/v1/keys/{key.split('_')[1]}").raise_for_status()
            connection.send(sent)
            assert said(connection.answer())[0] == 401


def gauges(edge: Edge) -> dict[str, float]:
    with edge.gateway.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return {line.split()[0]: float(line.split()[1]) for line in lines if line[0] != "#"}


def test_bodies_that_break_off_leave_nothing_behind(edge: Edge) -> None:
    large = plain(edge, body(values=1 << 19))
    before = gauges(edge)
    for _ in range(64):  # 1.5 MiB each, of which a megabyte arrives
        with edge.connect("valid") as connection:
            connection.send(large[: 1 << 20])
    edge.assert_alive()
    after = gauges(edge)
    assert after["gearshift_inflight_requests"] == 1  # the scrape itself
    name = "process_resident_memory_bytes"
    assert after[name] - before[name] < 24 << 20


def open_sockets(edge: Edge) -> int:
    count = 0
    for link in Path(f"/proc/{edge.gateway.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            count += str(link.readlink()).startswith("socket:")
    return count


def large(edge: Edge) -> tuple[bytes, bytes]:
    """Two requests whose answers are far larger than what they ask: one direct, one by ASGI."""
    rows = {"model": "tiny", "inputs": [[1, 2, 3, 4]] * 32}
    return plain(edge, json.dumps(rows).encode()), request("GET", "/openapi.json", key=edge.key)


@pytest.mark.parametrize("kind", [0, 1])
def test_a_caller_that_takes_no_answer_is_left(edge: Edge, kind: int) -> None:
    sent = large(edge)[kind]
    alone = edge.send("valid", sent).body
    time.sleep(0.2)  # that connection is closed meanwhile
    before = open_sockets(edge)
    with Connection(edge.port, receive_bytes=4096) as connection:
        connection.pour(sent * ((8 << 20) // len(alone)))
        time.sleep(0.2)
        assert open_sockets(edge) == before + 1
        end = time.monotonic() + 20
        while open_sockets(edge) > before:
            assert time.monotonic() < end, "it is waited for"
            time.sleep(0.05)
    edge.assert_alive()


def test_a_caller_that_takes_its_answer_slowly_is_not_left(edge: Edge) -> None:
    sent = large(edge)[1]
    alone = edge.send("valid", sent).body
    count = (8 << 20) // len(alone)
    with Connection(edge.port, receive_bytes=64 << 10) as connection:
        connection.send(sent * count)
        for _ in range(count):
            answer = connection.answer()
            assert answer is not None and len(answer.body) == len(alone)
            time.sleep(4 / count)  # three times as long as the gateway waits for what stands still
    edge.assert_alive()


def test_a_caller_that_only_ends_its_side_gets_its_answers(edge: Edge) -> None:
    slow = json.dumps({"model": "patient", "inputs": [[300]]}).encode()
    whole = {
        "direct": plain(edge, body()),
        "slow": plain(edge, slow),
        "asgi": request("GET", "/v1/models", key=edge.key),
        "chunked": plain(edge, b"%x\r\n%b\r\n0\r\n\r\n" % (len(slow), slow), *CHUNKED),
    }
    for sent in (*whole.values(), whole["slow"] + whole["asgi"] + whole["slow"]):
        with edge.connect("half-closed") as connection:
            connection.send(sent)
            connection.finish()
            for _ in range(sent.count(b" HTTP/1.1\r\n")):
                answer = connection.answer()
                assert answer is not None and answer.status == 200
            assert answer.headers["connection"] == "close"
            assert connection.ended(2)
    assert gauges(edge)["gearshift_inflight_requests"] == 1


def test_half_a_request_is_not_answered(edge: Edge) -> None:
    for cut in (10, -1):
        with edge.connect("half-closed") as connection:
            connection.send(plain(edge, body())[:cut])
            connection.finish()
            assert connection.ended(2)
    assert gauges(edge)["gearshift_inflight_requests"] == 1


@pytest.mark.parametrize("ends_first", [False, True])
def test_a_caller_that_goes_is_noticed_also_after_it_ended_its_side(
    edge: Edge, ends_first: bool
) -> None:
    slow = json.dumps({"model": "patient", "inputs": [[6000]]}).encode()
    before = gauges(edge)["gearshift_client_closed_total"]
    for sent in (
        plain(edge, slow),
        plain(edge, b"%x\r\n%b\r\n0\r\n\r\n" % (len(slow), slow), *CHUNKED),
    ):
        with edge.connect("left early") as connection:
            connection.send(sent)
            if ends_first:
                connection.finish()
            assert not connection.readable(0.1) or ends_first
    end = time.monotonic() + 5
    while gauges(edge)["gearshift_client_closed_total"] < before + 2:
        assert time.monotonic() < end
        time.sleep(0.02)
