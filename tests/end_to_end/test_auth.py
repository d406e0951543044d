"""Who may do what: every route against every kind of key (group A)."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from app.access import ROUTES
from app.keys import open_keys
from tests import world
from tests.edge import Edge
from tests.raw import Answer, assert_problem, request
from variants.data_folder import open_data_folder

PROTECTED = [(method, path, need) for (method, path), need in ROUTES.items() if need != "public"]
PUBLIC = [(method, path) for (method, path), need in ROUTES.items() if need == "public"]
IDS = [f"{method} {path}" for method, path, _ in PROTECTED]


def concrete(path: str) -> str:
    """A path with things that do not exist, so that no call here changes anything."""
    return path.replace("{digest}", "0" * 64).replace("{", "no-").replace("}", "")


def call(edge: Edge, method: str, path: str, *authorization: str, body: bytes = b"{}") -> Answer:
    data = request(
        method, concrete(path), body, headers=[("authorization", a) for a in authorization]
    )
    if not authorization:
        data = data.replace(b"authorization: Bearer \r\n", b"")
    return edge.send("keys", data)


def wrong_keys(key: str) -> Iterator[tuple[str, ...]]:
    """Every way of having no valid key."""
    prefix, id, secret = key.split("_", 2)
    yield ()
    yield ("",)
    yield ("Bearer",)
    yield ("Bearer ",)
    yield (key,)
    yield (f"Basic {key}",)
    yield (f"Token {key}",)
    yield (f"Bearer {key}", f"Bearer {key}")
    yield (f"Bearer {key}, Bearer {key}",)
    yield (f"Bearer {prefix}_{id}_{secret[:-1]}",)
    yield (f"Bearer {prefix}_{id}_{secret}x",)
    yield (f"Bearer {prefix}_{id}_",)
    yield (f"Bearer {prefix}_{id}",)
    yield (f"Bearer {prefix}_ffffffff_{secret}",)
    yield (f"Bearer {prefix}__{secret}",)
    yield (f"Bearer xx_{id}_{secret}",)
    yield (f"Bearer {key.upper()}",)
    yield (f"Bearer {key} {key}",)
    yield ("Bearer " + "a" * 10_000,)
    yield ("Bearer \xff\xfe",)
    yield ("Bearer ' OR 1=1 --",)


@pytest.mark.parametrize(("method", "path", "need"), PROTECTED, ids=IDS)
def test_no_route_answers_without_a_valid_key(
    edge: Edge, method: str, path: str, need: str
) -> None:
    documents = set()
    for authorization in wrong_keys(edge.key):
        answer = call(edge, method, path, *authorization)
        problem = assert_problem(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        documents.add((problem["title"], problem["type"]))
    assert len(documents) == 1, "callers must not be able to tell why"


@pytest.mark.parametrize(("method", "path", "need"), PROTECTED, ids=IDS)
def test_a_key_opens_only_the_routes_of_its_scope(
    edge: Edge, method: str, path: str, need: str
) -> None:
    for scope, key in edge.keys.items():
        answer = call(edge, method, path, f"Bearer {key}")
        if need in (scope, "any"):
            assert answer.status not in (401, 403)
        else:
            assert_problem(answer, 403, "forbidden")


@pytest.mark.parametrize(("method", "path"), PUBLIC)
def test_a_public_route_needs_no_key_and_takes_any(edge: Edge, method: str, path: str) -> None:
    for authorization in ((), ("Bearer nonsense",), (f"Bearer {edge.key}",)):
        assert call(edge, method, path, *authorization).status == 200


def test_the_verdict_comes_before_anything_about_the_body(edge: Edge) -> None:
    for method, path, _ in PROTECTED:
        if method in ("POST", "PUT"):
            for body in (b"{", b"[" * 100_000, b"\xff"):
                answer = call(edge, method, path, body=body)
                assert_problem(answer, 401, "unauthenticated")


def test_the_scheme_is_case_insensitive(edge: Edge) -> None:
    for scheme in ("bearer", "BEARER", "Bearer "):
        assert call(edge, "GET", "/v1/models", f"{scheme} {edge.key}").status == 200


def test_unknown_wrong_and_revoked_keys_cannot_be_told_apart(edge: Edge) -> None:
    with open_data_folder(edge.data_dir) as data:
        revoked = world.make_key(data, "infer")
        open_keys(data.keys, data.root, required=True).revoke(revoked.split("_")[1], actor="test")
    _, id, secret = edge.key.split("_", 2)
    bodies = set()
    for key in (revoked, f"gs_{id}_wrong", f"gs_00000000_{secret}"):
        problem = assert_problem(
            call(edge, "GET", "/v1/models", f"Bearer {key}"), 401, "unauthenticated"
        )
        bodies.add(tuple(value for name, value in problem.items() if name != "request_id"))
    assert len(bodies) == 1


def test_a_key_revoked_on_the_command_line_is_refused_within_a_second(edge: Edge) -> None:
    with open_data_folder(edge.data_dir) as data:
        keys = open_keys(data.keys, data.root, required=True)
        key = keys.create("short-lived", frozenset({"read"}), actor="test")
        _until(edge, key, 200)
        keys.revoke(key.split("_")[1], actor="test")
        assert _until(edge, key, 401) < 1


def _until(edge: Edge, key: str, status: int) -> float:
    start = time.monotonic()
    while call(edge, "GET", "/v1/models", f"Bearer {key}").status != status:
        assert time.monotonic() - start < 5
        time.sleep(0.02)
    return time.monotonic() - start


def test_keys_are_made_listed_and_revoked_over_the_api(edge: Edge) -> None:
    with edge.gateway.client() as client:
        made = client.post("/v1/keys", json={"name": "shop", "scopes": ["infer"]})
        assert made.status_code == 201
        key = made.json()["key"]
        id, secret = key.split("_", 2)[1:]
        listed = client.get("/v1/keys")
        assert id in listed.text and secret not in listed.text
        with edge.gateway.client(key) as shop:
            body = {"model": "tiny", "inputs": [1, 2, 3, 4]}
            assert shop.post("/infer", json=body).status_code == 200
            assert client.delete(f"/v1/keys/{id}").status_code == 204
            assert shop.post("/infer", json=body).status_code == 401
        assert client.delete("/v1/keys/nope").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["root"]},
        {"name": "", "scopes": ["infer"]},
        {"name": "x" * 129, "scopes": ["infer"]},
        {"name": "x"},
        {"scopes": ["infer"]},
        {"name": "x", "scopes": ["infer"], "admin": True},
        {"name": 1, "scopes": ["infer"]},
        {"name": "x", "scopes": "infer"},
    ],
)
def test_a_wrong_wish_for_a_key_is_refused_with_422(edge: Edge, body: dict[str, object]) -> None:
    with edge.gateway.client() as client:
        answer = client.post("/v1/keys", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert answer.json()["field"]


def test_the_last_admin_key_cannot_be_revoked(edge: Edge) -> None:
    with edge.gateway.client() as client:
        answer = client.delete(f"/v1/keys/{edge.key.split('_')[1]}")
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        other = client.post("/v1/keys", json={"name": "second", "scopes": ["admin"]}).json()["key"]
        assert client.delete(f"/v1/keys/{other.split('_')[1]}").status_code == 204
        assert client.get("/v1/keys").status_code == 200


def test_the_last_admin_key_goes_by_force_only(tmp_path: Path) -> None:
    """A gateway of its own: it is locked for good, but for the command line."""
    with open_data_folder(tmp_path / "data") as data:
        key = world.make_key(data)
    with world.gateway(tmp_path / "data", key) as gateway, gateway.client() as client:
        path = f"/v1/keys/{key.split('_')[1]}"
        assert client.delete(path).status_code == 409
        assert client.delete(path, params={"force": "false"}).status_code == 409
        assert client.delete(path, params={"force": "maybe"}).status_code == 422
        assert client.delete(path, params={"force": "true"}).status_code == 204
        assert client.get("/v1/keys").status_code == 401


NASTY = "<script>alert(1)</script>\x1b[31m\u202eevil\r\nx-made: up\u2028"


def test_what_callers_write_is_harmless_where_it_is_told(edge: Edge) -> None:
    """In answers, in logs and in headers (U19)."""
    with edge.gateway.client() as client:
        made = client.post("/v1/keys", json={"name": NASTY, "scopes": ["infer"]})
        answers = [made, client.get("/v1/keys"), client.get("/v1/audit")]
        assert made.status_code == 201, made.text
        nul = client.post("/v1/keys", json={"name": NASTY + "\x00", "scopes": ["infer"]})
        assert nul.status_code == 400
        assert NASTY in [entry["name"] for entry in answers[1].json()["keys"]]
        answers.append(client.delete(f"/v1/keys/{made.json()['key'].split('_')[1]}"))
        step = {"technique": "t", "config": {NASTY: NASTY}}
        body = {"name": "n", "artifact": {"digest": "0" * 64}, "recipe": [step]}
        answers.append(client.post("/v1/models/tiny/variants", json=body))
        answers.append(client.post("/v1/models/tiny/variants", json={**body, "name": NASTY}))
        answers.append(client.post("/infer", json={"model": NASTY, "inputs": [1]}))
        answers.append(client.get(f"/v1/models/{quote(NASTY)}"))
    for answer in answers:
        assert answer.headers.get("content-type", "application/json") in {
            "application/json",
            "application/problem+json",
            "application/jsonl",
        }
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "x-made" not in answer.headers
        assert not any(mark in answer.text for mark in "\x1b\x00\r"), answer.text
    for sent in (b"<script>\x1b[31m", "\u202eevil".encode(), b"a b"):
        data = request(
            "POST",
            "/v1/keys",
            b'{"name": "x", "scopes": ["infer"]}',
            key=edge.key,
            headers=[("idempotency-key", sent.decode("latin-1"))],
        )
        reply = edge.send("idempotency keys", data)
        assert reply.status in {400, 422} and sent not in reply.body
    for line in edge.gateway.log:
        text = line.rstrip("\n")
        assert text.isprintable() and "<script>" not in text, text


def test_no_key_is_ever_written_anywhere(edge: Edge) -> None:
    """Not into logs, metrics, errors, the process list or the data folder."""
    secrets = [key.split("_", 2)[2] for key in (edge.key, *edge.keys.values())]
    with edge.gateway.client() as client:
        seen = [client.get("/metrics").text, client.get("/v1/keys").text, *edge.gateway.log]
        seen += [_error(client, key) for key in (edge.key, *edge.keys.values())]
    seen.append(Path(f"/proc/{edge.gateway.process.pid}/cmdline").read_text())
    stored = b"".join(path.read_bytes() for path in edge.data_dir.iterdir() if path.is_file())
    for secret in secrets:
        assert not any(secret in text for text in seen)
        assert secret.encode() not in stored


def _error(client: httpx.Client, key: str) -> str:
    answer = client.get("/v1/keys", headers={"authorization": f"Bearer {key}x"})
    assert answer.status_code == 401
    return answer.text


def test_the_pepper_is_readable_by_its_owner_only(edge: Edge) -> None:
    assert (edge.data_dir / "pepper").stat().st_mode & 0o777 == 0o600


def test_the_audit_is_exported_as_json_lines_by_route_and_by_command(tmp_path: Path) -> None:
    with open_data_folder(tmp_path / "data") as data:
        key = world.make_key(data)
    with world.gateway(tmp_path / "data", key) as gateway, gateway.client() as client:
        made = client.post("/v1/keys", json={"name": "shop", "scopes": ["infer"]}).json()["key"]
        answer = client.get("/v1/audit")
        assert answer.headers["content-type"].startswith("application/jsonl")
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert [line["action"] for line in lines] == ["key.create", "key.create"]
        assert lines[1]["evidence"]["key"] == made.split("_")[1]
        assert lines[1]["actor"] == f"key {key.split('_')[1]} (test)"
        assert made.split("_", 2)[2] not in answer.text
        later = client.get("/v1/audit", params={"after": lines[0]["id"]})
        assert [json.loads(line) for line in later.text.splitlines()] == lines[1:]
    command = [sys.executable, "-m", "app.cli", "--data-dir", str(tmp_path / "data"), "audit"]
    printed = subprocess.run(
        [*command, "--after", "1"], check=True, stdout=subprocess.PIPE, text=True
    )
    assert [json.loads(line) for line in printed.stdout.splitlines()] == lines[1:]
