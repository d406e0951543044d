"""The gateway behind a real nginx with the configuration that is shipped (`deploy/nginx`).

Whatever the raw-socket tests send to a gateway is sent through nginx as well; what nginx settles by
itself is told here.
"""

import hashlib
import inspect
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from app.http_edge import SECURITY
from tests import ladder as ladders
from tests import servers, world
from tests.edge import Edge
from tests.end_to_end import test_protocol
from tests.ladder import Ladder
from tests.raw import ask, assert_problem, request
from tests.servers import Nginx

BY_NGINX = {
    "test_a_wrong_method_is_told_the_right_ones": "TRACE ends here",
    "test_a_slow_head_is_ended_at_its_deadline": "closed without an answer",
    "test_a_silent_connection_is_ended_at_its_deadline": "closed without an answer",
    "test_a_slow_body_is_ended_at_its_deadline": "its own time-out, between two pieces",
    "test_a_refused_caller_cannot_go_on_sending_for_ever": "collects the body first",
    "test_a_refused_expectation_is_told_before_the_body": "collects the body first",
    "test_a_thousand_headers_are_refused_with_431": "counts them itself, with the same status",
    "test_a_length_of_thousands_of_digits_is_refused": "writes the number anew",
    "test_a_body_longer_than_declared_never_becomes_another_request": "answers the rest with 400",
    "test_a_whole_request_before_garbage_is_answered_first": "answers the garbage with 400",
    "test_trailers_are_dropped_and_bounded": "cut off without an answer",
    "test_no_host_or_form_of_the_target_changes_who_may": "refuses odd hosts itself",
    "test_an_interrupted_body_is_counted_and_is_no_error": "the gateway never hears of it",
}
"""Tests of the protocol that the gateway alone can pass, and why."""

TIMES = {"client_header_timeout 10s": "client_header_timeout 1s"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Through(Edge):
    """The same gateway, reached through nginx."""

    nginx: Nginx

    @property
    def port(self) -> int:
        """Where nginx listens."""
        return self.nginx.port


@pytest.fixture(scope="module")
def through(edge: Edge) -> Iterator[Through]:
    with servers.nginx(edge.port, changed=TIMES) as nginx:
        yield Through(gateway=edge.gateway, data_dir=edge.data_dir, keys=edge.keys, nginx=nginx)


def protocol_tests() -> Iterator[tuple[str, dict[str, object]]]:
    """Every test of the protocol with each of its parameters."""
    for name, test in vars(test_protocol).items():
        if not name.startswith("test_") or not inspect.isfunction(test) or name in BY_NGINX:
            continue
        rows: list[dict[str, object]] = [{}]
        for mark in getattr(test, "pytestmark", []):
            if mark.name != "parametrize":
                continue
            names, values = mark.args[0], list(mark.args[1])
            if isinstance(names, str):
                rows = [{names: value} for value in values]
            else:
                rows = [dict(zip(names, value, strict=True)) for value in values]
        yield from ((name, row) for row in rows if row.get("target") != "/%00")  # 400 by nginx


@pytest.mark.parametrize(("name", "row"), list(protocol_tests()))
def test_the_protocol_holds_through_nginx(
    through: Through, name: str, row: dict[str, object]
) -> None:
    getattr(test_protocol, name)(through, **row)


def test_what_follows_a_body_is_another_request_for_nginx_too(through: Through) -> None:
    body = test_protocol.VALID
    smuggled = request("GET", "/v1/keys", key=through.key)
    for rest, status in ((b"}", 400), (b"\x00\x01garbage\r\n\r\n", 400), (smuggled, 200)):
        with through.connect("long body") as connection:
            length = [("content-length", str(len(body)))]
            connection.send(request("POST", "/infer", body + rest, key=through.key, headers=length))
            first, second = connection.answer(), connection.answer()
            assert first is not None and first.json()["model"] == "tiny"
            assert second is None or second.status == status


def test_a_slow_head_is_cut_off(through: Through) -> None:
    with through.connect("slow") as connection:
        started = time.monotonic()
        for byte in b"GET /healthz HTTP/1.1":
            connection.send(bytes([byte]))
            if connection.ended(0.1):
                break
        assert time.monotonic() - started < 4
    through.assert_alive()


def test_a_body_that_pauses_is_cut_off_and_never_reaches_the_gateway(edge: Edge) -> None:
    before = test_protocol.metric(edge, "gearshift_client_closed_total")
    changed = {"client_body_timeout 4s": "client_body_timeout 1s"}
    with servers.nginx(edge.port, changed=changed) as nginx:
        through = Through(gateway=edge.gateway, data_dir=edge.data_dir, keys=edge.keys, nginx=nginx)
        with through.connect("slow") as connection:
            given = [("content-length", "50")]
            connection.send(request("POST", "/infer", b"{", key=edge.key, headers=given))
            started = time.monotonic()
            assert connection.ended(4)
            assert 0.5 < time.monotonic() - started < 3
        through.assert_alive()
    assert test_protocol.metric(edge, "gearshift_client_closed_total") == before


def drip(through: Through, pause_s: float, within_s: float) -> tuple[bool, float]:
    """A byte of a body at a time: whether the connection ends in time, and the seconds."""
    started = time.monotonic()
    with through.connect("slow") as connection:
        given = [("content-length", "500")]
        connection.send(request("POST", "/infer", b"{", key=through.key, headers=given))
        while (taken_s := time.monotonic() - started) < within_s:
            connection.send(b" ")
            if connection.readable(pause_s):
                return True, taken_s
    return False, within_s


def test_a_body_that_drips_stays_with_nginx(edge: Edge) -> None:
    """nginx bounds pauses only; such a body takes no room of a gateway until it is whole."""
    changed = {"client_body_timeout 4s": "client_body_timeout 1s"}
    with servers.nginx(edge.port, changed=changed) as nginx:
        through = Through(gateway=edge.gateway, data_dir=edge.data_dir, keys=edge.keys, nginx=nginx)
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(drip, through, 0.3, 3)
            time.sleep(1)
            assert test_protocol.metric(edge, "gearshift_inflight_requests") == 1  # the scrape
            through.assert_alive()
            assert ended.result() == (False, 3)


def test_a_body_that_drips_ends_where_the_gateway_may_bound_it(edge: Edge) -> None:
    """The line that docs/operating.md tells of."""
    line = "proxy_next_upstream_tries 2;"
    changed = {line: f"{line} proxy_request_buffering off;"}
    with servers.nginx(edge.port, changed=changed) as nginx:
        through = Through(gateway=edge.gateway, data_dir=edge.data_dir, keys=edge.keys, nginx=nginx)
        ended, taken_s = drip(through, 0.3, 10)
        assert ended and taken_s < 4
        through.assert_alive()


def test_what_a_gateway_answers_has_each_security_header_once(through: Through) -> None:
    for method, target, body in (("POST", "/infer", test_protocol.VALID), ("GET", "/healthz", b"")):
        answer = through.send("valid", request(method, target, body, key=through.key))
        assert answer.status == 200
        for name, value in SECURITY:
            assert answer.headers[name] == value


def test_an_address_has_so_many_requests_open(through: Through) -> None:
    changed = {"limit_conn gearshift_peers 200": "limit_conn gearshift_peers 1"}
    slow = test_protocol.post(through, b'{"model": "patient", "inputs": [1500]}')
    with servers.nginx(through.gateway.port, changed=changed) as nginx:
        narrow = replace(through, nginx=nginx)
        with narrow.connect("peers") as first, narrow.connect("peers") as second:
            first.send(slow)
            assert not first.readable(0.05)
            second.send(request("GET", "/healthz"))
            answer = second.answer()
            assert answer is not None
            assert_problem(answer, 429, "too-many-connections")


def test_the_parts_of_an_upload_reach_one_gateway(ladder: Ladder, tmp_path: Path) -> None:
    env = {**ladders.ENV, "GEARSHIFT_WORKERS": "1"}
    other = ladder.copy(tmp_path / "other")
    content = b"parts" * 2000
    with (
        world.gateway(ladder.root, ladder.key, env=env) as one,
        world.gateway(other.root, other.key, env=env) as two,
        servers.nginx(one.port, two.port) as nginx,
    ):
        for number in range(3):
            whole = content + bytes([number])
            path = f"/v1/blobs/{hashlib.sha256(whole).hexdigest()}"
            for at in range(0, len(whole), 2500):
                part = whole[at : at + 2500]
                last = at + len(part) == len(whole)
                given = [("upload-offset", str(at)), ("upload-complete", f"?{int(last)}")]
                data = request("PATCH", path, part, key=ladder.key, headers=given)
                answer = ask(nginx.port, data)
                assert answer.status == (201 if last else 202), answer


def test_an_upload_passes_straight_through_and_goes_on(through: Through) -> None:
    content = b"upload" * 200_000
    path = f"/v1/blobs/{hashlib.sha256(content).hexdigest()}"
    with through.connect("upload") as connection:
        given = [("content-length", str(len(content))), ("upload-offset", "0")]
        data = request("PATCH", path, content[:900_000], key=through.key, headers=given)
        connection.send(data)
        end = time.monotonic() + 5
        while through.send("upload", request("GET", path, key=through.key)).status != 200:
            assert time.monotonic() < end, "nginx kept it to itself"
            time.sleep(0.02)
    with httpx.Client(
        base_url=f"http://127.0.0.1:{through.port}",
        headers={"authorization": f"Bearer {through.key}"},
        trust_env=False,
    ) as client:
        while True:
            at = int(client.head(path).headers["upload-offset"])
            headers = {"upload-offset": str(at)}
            answer = client.patch(path, content=content[at:], headers=headers)
            if answer.status_code == 201:
                break
            assert answer.json()["code"] in ("conflict", "mismatching-upload-offset")
    assert at > 0


def test_without_a_gateway_the_answer_is_a_problem(through: Through) -> None:
    with servers.nginx(1) as nginx:
        alone = replace(through, nginx=nginx)
        with alone.connect("alone") as connection:
            connection.send(request("GET", "/v1/models", key=through.key))
            answer = connection.answer()
        assert answer is not None
        assert_problem(answer, 502, "unreachable")
        assert answer.headers["retry-after"] == "1"


def test_another_gateway_is_asked_where_one_cannot_be_reached(through: Through) -> None:
    with servers.nginx(1, through.gateway.port, 2) as nginx:
        spread = replace(through, nginx=nginx)
        for _ in range(30):
            spread.assert_alive()
            key = request("GET", "/v1/models", key=through.key)
            assert spread.send("spread", key).status == 200
