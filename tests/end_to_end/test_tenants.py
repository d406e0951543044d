"""Tenants: what a key may know, use and spend, over the running gateway (groups A and O4)."""

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.access import ROUTES
from app.http_edge import SECURITY
from tests.edge import Edge
from tests.raw import Answer, Connection, assert_problem, request

TINY = b'{"model": "tiny", "inputs": [1, 2, 3, 4]}'
PATIENT = b'{"model": "patient", "inputs": [1500]}'
NOT_MINE = ("tiny", "pair", "patient")
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/v1/route"): {"model": "{model}"},
    ("POST", "/infer"): {"model": "{model}", "inputs": [1, 2, 3, 4]},
}


@pytest.fixture(scope="module")
def make(edge: Edge) -> Callable[..., str]:
    """Makes keys with limits."""

    def made(*scopes: str, name: str = "tenant", **limits: Any) -> str:
        with edge.gateway.client() as client:
            body = {"name": name, "scopes": scopes or ("infer", "read"), "limits": limits}
            answer = client.post("/v1/keys", json=body)
            assert answer.status_code == 201, answer.text
            return str(answer.json()["key"])

    return made


@pytest.fixture(scope="module")
def limited(make: Callable[..., str]) -> str:
    """A key that knows `fashion` as a whole no more than its int8, and `picture`."""
    return make(allow=["fashion/int8", "picture"])


def ask(edge: Edge, method: str, path: str, key: str, body: Any = None) -> Answer:
    content = b"" if body is None else json.dumps(body).encode()
    return edge.send("tenants", request(method, path, content, key=key))


def infer(edge: Edge, key: str) -> int:
    return edge.send("tenants", request("POST", "/infer", TINY, key=key)).status


def filled(method: str, path: str, model: str) -> tuple[str, Any]:
    body = BODIES.get((method, path))
    if body is not None:
        body = {name: model if value == "{model}" else value for name, value in body.items()}
    elif method in ("POST", "PUT"):
        body = {}
    for name, value in {"model": model, "variant": "fp32", "digest": "0" * 64}.items():
        path = path.replace(f"{{{name}}}", value)
    return re.sub(r"{\w+}", "none", path), body


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=str)
def test_every_route_treats_a_model_that_is_not_the_keys_as_none(
    edge: Edge, limited: str, method: str, path: str
) -> None:
    need = ROUTES[method, path]
    answers = []
    for model in ("tiny", "nosuch"):
        target, body = filled(method, path, model)
        answer = ask(edge, method, target, limited, body)
        answers.append((answer.status, re.sub(rb"tiny|nosuch|-r[0-9a-f]+", b"_", answer.body)))
        if need in ("admin", "metrics"):
            assert_problem(answer, 403, "forbidden")
        elif "{model}" in path or (method, path) in BODIES:
            assert_problem(answer, 404, "not-found")
        told = answer.body + repr(answer.headers).encode()
        assert model == "tiny" or not any(name.encode() in told for name in NOT_MINE)
    if need != "any":  # its own usage grows by itself
        assert answers[0] == answers[1]


def test_lists_show_only_what_is_the_keys(edge: Edge, limited: str) -> None:
    listed = ask(edge, "GET", "/v1/models", limited).json()["models"]
    assert [model["model"] for model in listed] == ["fashion", "picture"]
    fashion = listed[0]
    assert (fashion["active"], fashion["inactive"], fashion["reference"]) == (["int8"], [], None)
    shown = ask(edge, "GET", "/v1/models/fashion/variants", limited).json()["variants"]
    assert [variant["variant"] for variant in shown] == ["int8"]
    for path in ("", "/history"):
        hidden = ask(edge, "GET", f"/v1/models/fashion/variants/fp32{path}", limited)
        assert_problem(hidden, 404, "not-found")
    one = ask(edge, "GET", "/v1/models/fashion/variants/int8", limited)
    assert one.status == 200 and one.json()["history"] == []
    assert b"fp32" not in one.body and b"key " not in one.body
    for path in ("history", "events"):
        whole = ask(edge, "GET", f"/v1/models/fashion/variants/int8/{path}", limited)
        assert_problem(whole, 403, "forbidden")


def test_only_allowed_variants_answer_and_no_other_is_named(edge: Edge, limited: str) -> None:
    with edge.gateway.client(limited) as client:
        picture = {"model": "fashion", "inputs": [[[[0.0, 0.5], [1.0, 0.25]]]]}
        answer = client.post("/infer", json=picture, headers={"infer-explain": "?1"})
        assert (answer.status_code, answer.json()["variant"]) == (200, "int8"), answer.text
        decision = answer.json()["decision"]
        assert [each["variant"] for each in decision["candidates"]] == ["int8"]
        assert decision["considered"] == 1 and "fp32" not in answer.text
        pinned = client.post("/infer", json=picture, headers={"infer-variants": '"fp32"'})
        assert pinned.status_code == 404 and pinned.json()["detail"].endswith("active: int8")
        both = client.post("/infer", json=picture, headers={"infer-variants": '"fp32", "int8"'})
        assert both.status_code == 404
        refused = client.post("/infer", json=picture, headers={"infer-max-cost": "0"})
        assert refused.status_code == 422 and "fp32" not in refused.text
        route = client.post("/v1/route", json={"model": "fashion"})
        assert [each["variant"] for each in route.json()["candidates"]] == ["int8"]


def test_decisions_of_others_are_not_the_keys(edge: Edge, limited: str) -> None:
    with edge.gateway.client() as admin, edge.gateway.client(limited) as client:
        picture = {"model": "fashion", "inputs": [[[[0.0, 0.5], [1.0, 0.25]]]]}

        def id_of(asked: httpx.Client) -> str:
            answer = asked.post("/infer", json=picture)
            return re.search(r'id="([^"]+)"', answer.headers["infer-decision"])[1]  # type: ignore[index]

        mine, theirs = id_of(client), id_of(admin)
        assert client.get(f"/v1/decisions/{mine}").status_code == 200
        hidden, unknown = client.get(f"/v1/decisions/{theirs}"), client.get("/v1/decisions/x-1")
        assert hidden.status_code == unknown.status_code == 404
        assert admin.get(f"/v1/decisions/{mine}").status_code == 200


def test_the_stricter_of_key_and_request_holds_and_the_reply_says_which(
    edge: Edge, make: Callable[..., str]
) -> None:
    key = make(max_latency_ms=5000, max_cost=1000, min_accuracy=0.5)
    cases = {
        "": "max-latency-ms=5000.000;from=key, max-cost=1000.000;from=key, "
        "min-accuracy=0.500;from=key",
        "20": "max-latency-ms=20.000;from=request, ",
        "9000": "max-latency-ms=5000.000;from=key, ",
    }
    for wish, expected in cases.items():
        headers = {"infer-max-latency-ms": wish} if wish else {}
        answer = edge.send(
            "tenants", request("POST", "/infer", TINY, key=key, headers=list(headers.items()))
        )
        assert answer.headers["infer-effective"].startswith(expected)
        assert answer.status in (200, 503)
    with edge.gateway.client(key) as client:
        body = {"model": "tiny", "inputs": [1, 2, 3, 4]}
        refused = client.post(
            "/infer",
            json=body,
            headers={"infer-min-accuracy": "0.999;soft", "prefer": "handling=lenient"},
        )
        assert refused.status_code == 422, "the key's floor is hard, and so is the stricter one"
        assert "min-accuracy=0.999;from=request" in refused.headers["infer-effective"]
        route = client.post("/v1/route", json={"model": "tiny"})
        assert "max-cost=1000.000;from=key" in route.headers["infer-effective"]
    free = edge.send("tenants", request("POST", "/infer", TINY, key=edge.keys["infer"]))
    assert "infer-effective" not in free.headers and "ratelimit" not in free.headers


def test_too_many_requests_are_told_when_to_come_back(edge: Edge, make: Callable[..., str]) -> None:
    key = make(requests_per_s=5)
    seen: list[Answer] = []
    with edge.connect("tenants") as connection:
        for _ in range(12):
            connection.send(request("POST", "/infer", TINY, key=key))
            answer = connection.answer()
            assert answer is not None
            seen.append(answer)
    passed = [answer for answer in seen if answer.status == 200]
    refused = [answer for answer in seen if answer.status == 429]
    assert len(passed) >= 5 and refused and len(passed) + len(refused) == 12
    for answer in seen:
        assert answer.headers["ratelimit-policy"] == '"requests";q=5;w=1'
        assert re.fullmatch(r'"requests";r=\d;t=\d', answer.headers["ratelimit"])
    for answer in refused:
        assert_problem(answer, 429, "rate-limited")
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["ratelimit"].startswith('"requests";r=0;')
    other = edge.send("tenants", request("POST", "/infer", TINY, key=edge.keys["infer"]))
    assert other.status == 200
    time.sleep(1.0)
    chunked = request("POST", "/infer", key=key, headers=[("transfer-encoding", "chunked")])
    chunked += b"%x\r\n%b\r\n0\r\n\r\n" % (len(TINY), TINY)
    statuses = {edge.send("tenants", chunked).status for _ in range(12)}
    assert statuses == {200, 429}, "the way through ASGI counts as well"
    reading = {ask(edge, "GET", "/v1/models", key).status for _ in range(12)}
    assert 429 in reading
    metrics = edge.send("tenants", request("GET", "/metrics", key=edge.key)).body.decode()
    counted = re.search(r'rejected_total{cause="rate_limit",model="_unknown_"} (\d+)', metrics)
    assert counted is not None and int(counted[1]) >= len(refused) + 2


def test_a_key_without_dollars_is_told_until_when(edge: Edge, make: Callable[..., str]) -> None:
    key = make(usd_per_day=0)
    for _ in range(2):
        answer = edge.send("tenants", request("POST", "/infer", TINY, key=key))
        assert_problem(answer, 429, "budget-spent")
        assert 1 <= int(answer.headers["retry-after"]) <= 86400
    assert ask(edge, "GET", "/v1/models", key).status == 200, "looking costs nothing"


def test_usage_is_shown_to_the_key_and_to_admins(edge: Edge, make: Callable[..., str]) -> None:
    key = make("infer", usd_per_day=100)
    body = b'{"model": "tiny", "inputs": [[1, 2, 3, 4], [1, 2, 3, 4]]}'
    for _ in range(3):
        assert edge.send("tenants", request("POST", "/infer", body, key=key)).status == 200
    own = ask(edge, "GET", "/v1/usage", key).json()
    by_admin = ask(edge, "GET", f"/v1/keys/{key.split('_')[1]}/usage", edge.key).json()
    assert own == by_admin
    assert own["key"] == key.split("_")[1]
    (day,) = own["days"]
    assert day["requests"] == 3 and 0 < day["usd"] < 0.001
    assert own["usd_per_day"] == 100 and 90 < own["unspent_usd"] < 100
    assert_problem(ask(edge, "GET", "/v1/keys/none/usage", edge.key), 404, "not-found")


def test_a_request_that_runs_when_its_key_is_revoked_is_counted(
    edge: Edge, make: Callable[..., str]
) -> None:
    key = make("infer", name="leaves")
    path = f"/v1/keys/{key.split('_')[1]}"
    with edge.connect("tenants") as connection:
        connection.send(request("POST", "/infer", PATIENT, key=key))
        time.sleep(0.2)  # it is on its way
        assert ask(edge, "DELETE", path, edge.key).status == 204
        assert ask(edge, "GET", f"{path}/usage", edge.key).json()["days"] == []
        answer = connection.answer()
    assert answer is not None and answer.status == 200
    (day,) = ask(edge, "GET", f"{path}/usage", edge.key).json()["days"]
    assert day["requests"] == 1 and day["usd"] > 0


def test_a_rotated_secret_and_an_expired_key_end_within_a_second(
    edge: Edge, make: Callable[..., str]
) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=2)
    body = {"name": "short", "scopes": ["infer"], "expires_at": ends.isoformat()}
    short = ask(edge, "POST", "/v1/keys", edge.key, body).json()["key"]
    old = make("infer", name="rotating")
    path = f"/v1/keys/{old.split('_')[1]}/rotate"
    made = ask(edge, "POST", path, edge.key, {"overlap_s": 2})
    assert made.status == 200
    new = made.json()["key"]
    assert [infer(edge, each) for each in (short, old, new)] == [200, 200, 200]
    time.sleep(3.2)
    assert infer(edge, new) == 200
    bodies = set()
    for key in (short, old, "gs_00000000_none"):
        answer = edge.send("tenants", request("POST", "/infer", TINY, key=key))
        problem = assert_problem(answer, 401, "unauthenticated")
        bodies.add(tuple(value for name, value in problem.items() if name != "request_id"))
    assert len(bodies) == 1, "what has ended cannot be told from what never was"


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"max_cost": -1}, "limits.max_cost"),
        ({"requests_per_s": 0}, "requests_per_s"),
        ({"allow": []}, "limits.allow"),
        ({"allow": ["No Such"]}, "allow"),
        ({"speed": 1}, "limits.speed"),
        ({"min_accuracy": "high"}, "limits.min_accuracy"),
    ],
)
def test_limits_that_cannot_be_are_refused(edge: Edge, limits: Any, field: str) -> None:
    body = {"name": "x", "scopes": ["infer"], "limits": limits}
    problem = assert_problem(ask(edge, "POST", "/v1/keys", edge.key, body), 422, "invalid")
    assert problem["field"] == field


def every_kind_of_answer(edge: Edge) -> Iterator[tuple[str, Answer]]:
    send, key = edge.send, edge.key
    yield "infer", send("heads", request("POST", "/infer", TINY, key=key))
    yield "infer refused", send("heads", request("POST", "/infer", b"{", key=key))
    yield "no key", send("heads", request("POST", "/infer", TINY))
    yield "read", send("heads", request("GET", "/v1/models", key=key))
    yield "probe", send("heads", request("GET", "/readyz"))
    yield "metrics", send("heads", request("GET", "/metrics", key=key))
    yield "unknown", send("heads", request("GET", "/nope"))
    yield "method", send("heads", request("GET", "/infer"))
    yield "not HTTP", send("heads", b"nonsense\r\n\r\n")
    flood = [(f"x-{n}", "1") for n in range(200)]
    yield "flood", send("heads", request("GET", "/v1/models", key=key, headers=flood))


def test_every_answer_tells_browsers_what_they_must_not_do(edge: Edge) -> None:
    for kind, answer in every_kind_of_answer(edge):
        for name, value in SECURITY:
            assert answer.headers.get(name) == value, (kind, name)
    for path in ("/v1/usage", "/v1/keys"):
        answer = edge.send("heads", request("GET", path, key=edge.key))
        assert answer.headers["cache-control"] in ("no-store", "no-cache")


def test_a_form_on_another_site_can_do_nothing(edge: Edge) -> None:
    """No cookie, no basic authentication: a browser has nothing to send along (A11)."""
    form = [
        ("origin", "https://evil.example"),
        ("content-type", "application/x-www-form-urlencoded"),
    ]
    bare = request("POST", "/v1/keys", b"name=x&scopes=admin", headers=form)
    assert_problem(edge.send("forms", bare), 401, "unauthenticated")
    with_key = request("POST", "/v1/keys", b"name=x&scopes=admin", key=edge.key, headers=form)
    assert_problem(edge.send("forms", with_key), 415, "unsupported-media-type")
    preflight = edge.send("forms", request("OPTIONS", "/v1/keys", headers=form[:1]))
    assert preflight.status == 405
    assert not any(name.startswith("access-control") for name in preflight.headers)


def test_no_secret_is_written_anywhere_in_the_life_of_a_key(edge: Edge) -> None:
    """Made, used, limited, refused, rotated, revoked: then everything is searched (A8)."""
    with edge.gateway.client() as admin:
        body = {"name": "story", "scopes": ["infer", "read"], "limits": {"requests_per_s": 3}}
        first = admin.post("/v1/keys", json=body).json()["key"]
        id = first.split("_")[1]
        answers = [edge.send("story", request("POST", "/infer", TINY, key=first)) for _ in range(6)]
        answers += [edge.send("story", request("POST", "/infer", b"{", key=first))]
        answers += [ask(edge, "GET", "/v1/audit", first), ask(edge, "GET", "/v1/nope", first)]
        second = admin.post(f"/v1/keys/{id}/rotate", json={}).json()["key"]
        answers += [edge.send("story", request("POST", "/infer", TINY, key=second + "x"))]
        assert admin.delete(f"/v1/keys/{id}").status_code == 204
        answers += [edge.send("story", request("POST", "/infer", TINY, key=second))]
        pages = ("/metrics", "/v1/audit", "/v1/keys", f"/v1/keys/{id}/usage", "/openapi.json")
        told = [admin.get(page).text for page in pages]
    assert {answer.status for answer in answers} >= {200, 401, 403, 404, 429}
    told += [repr(answer.headers) + answer.body.decode() for answer in answers]
    told += edge.gateway.log
    stored = b"".join(p.read_bytes() for p in edge.data_dir.iterdir() if p.is_file())
    for key in (first, second):
        secret = key.split("_", 2)[2]
        assert not any(secret in text for text in told)
        assert secret.encode() not in stored
    assert sum(f'"key":"{id}"' in line for line in told[1].splitlines()) == 3


def test_two_callers_at_once_are_counted_together(edge: Edge, make: Callable[..., str]) -> None:
    key = make(requests_per_s=20)
    statuses: list[int] = []

    def call() -> None:
        with Connection(edge.port) as connection:
            for _ in range(30):
                connection.send(request("POST", "/infer", TINY, key=key))
                answer = connection.answer()
                assert answer is not None
                statuses.append(answer.status)

    start = time.monotonic()
    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s = time.monotonic() - start
    assert set(statuses) <= {200, 429}
    assert 20 <= statuses.count(200) <= 20 + 20 * took_s + 1


def test_the_examples_of_the_documentation_work(edge: Edge) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tenants.md").read_text(encoding="utf-8")
    first, *others = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    env = {"URL": edge.gateway.url, "KEY": edge.key, "no_proxy": "*", "PATH": os.environ["PATH"]}
    made = json.loads(run(first, env))["key"]
    env["ID"] = made.split("_")[1]
    used, rotated, ended = [run(script, env) for script in others]
    assert '"usd_per_day":2' in used and f'"key":"{env["ID"]}"' in used
    new = json.loads(rotated)["key"]
    assert new.startswith(f"gs_{env['ID']}_") and ended == ""
    assert infer(edge, made) == infer(edge, new) == 401
    shown = re.search(r"Infer-Effective: (.*)\n", page)
    assert shown is not None
    for part in shown[1].split(", "):
        assert re.fullmatch(r"[a-z-]+=[0-9]+\.[0-9]{3};from=(key|request)", part)


def run(script: str, env: dict[str, str]) -> str:
    command = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
