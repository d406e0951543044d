"""Requests that a SQLite file and a PostgreSQL server must answer alike."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import httpx
import pytest

from tests import models, servers, world
from variants.data_folder import open_data_folder

VARIANT = "/v1/models/tiny/variants"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """An admin at a gateway with one variant, on a database of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    root = folder / "data"
    with open_data_folder(root) as data:
        tiny = models.tiny_onnx(folder / "tiny.onnx")
        world.publish(data, models.tiny_spec(), None, {"fp32": tiny})
        key = world.make_key(data)
    env = {"GEARSHIFT_WORKERS": "1"}
    if request.param == "postgresql":
        server: servers.Postgres = request.getfixturevalue("postgres")
        env["GEARSHIFT_DATABASE_URL"] = server.database()
        world.move_to_postgres(root, env["GEARSHIFT_DATABASE_URL"])
    with world.gateway(root, key, env=env) as gateway, gateway.client() as opened:
        yield opened
    assert "Traceback" not in "".join(gateway.log)


def create(client: httpx.Client, expires_at: str) -> httpx.Response:
    body = {"name": "x", "scopes": ["infer"], "expires_at": expires_at}
    return client.post("/v1/keys", json=body)


@pytest.mark.parametrize("hours", [14, 0, -8])
def test_a_key_ends_at_the_same_moment_whatever_zone_it_is_told_in(
    client: httpx.Client, hours: int
) -> None:
    ends = datetime.now(timezone(timedelta(hours=hours))) + timedelta(hours=1)
    key = create(client, ends.isoformat()).raise_for_status().json()["key"]
    (shown,) = (k for k in client.get("/v1/keys").json()["keys"] if k["id"] == key.split("_")[1])
    assert datetime.fromisoformat(shown["expires_at"]) == ends
    own = client.get("/v1/usage", headers={"authorization": f"Bearer {key}"})
    assert own.status_code == 200


@pytest.mark.parametrize("ends", ["9999-12-31T23:59:59-12:00", "3000-01-01T00:00:01Z"])
def test_an_end_that_is_too_far_away_is_refused(client: httpx.Client, ends: str) -> None:
    answer = create(client, ends)
    assert (answer.status_code, answer.json()["field"]) == (422, "expires_at"), answer.text
    assert "3000-01-01" in answer.json()["detail"]
    assert client.get("/v1/keys").status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{VARIANT}/a%00b"),
        ("GET", f"{VARIANT}/a%00b/history"),
        ("POST", f"{VARIANT}/a%00b/activate"),
        ("GET", "/v1/models/a%00b"),
        ("DELETE", "/v1/keys/%00"),
        ("GET", "/v1/keys/%00/usage"),
        ("GET", "/v1/decisions/%00"),
    ],
)
def test_a_name_with_a_nul_character_is_nobodys(
    client: httpx.Client, method: str, path: str
) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found"), answer.text


@pytest.mark.parametrize("number", [2**31 - 1, 2**31, 2**32, 10**17])
def test_a_version_that_no_column_holds_is_not_the_present_one(
    client: httpx.Client, number: int
) -> None:
    for path in (f"{VARIANT}/fp32/activate", "/v1/keys/none/rotate"):
        headers = {"If-Match": f'"{number}"'}
        answer = client.post(path, headers=headers, json={} if "keys" in path else None)
        assert answer.status_code == (404 if "keys" in path else 412), answer.text


def test_the_audit_says_why_where_people_do(client: httpx.Client) -> None:
    key = create(client, "2999-01-01T00:00:00Z").json()["key"].split("_")[1]
    asked: list[tuple[str, str, object]] = [
        ("POST", f"/v1/keys/{key}/rotate", {}),
        ("DELETE", f"/v1/keys/{key}", None),
        ("PUT", "/v1/models/tiny/reference", {"variant": "fp32"}),
        ("POST", f"{VARIANT}/fp32/deactivate?force=true", None),
        ("POST", f"{VARIANT}/fp32/activate", None),
        ("POST", f"{VARIANT}/fp32/retire?force=true", None),
    ]
    for number, (method, path, body) in enumerate(asked):
        url = f"{path}{'&' if '?' in path else '?'}reason=ticket {number}"
        assert client.request(method, url, json=body).is_success, path
    told = [json.loads(line) for line in client.get("/v1/audit").text.splitlines()]
    why = {line["reason"].split(",")[0]: line for line in told if "ticket" in line["reason"]}
    assert {f"ticket {number}" for number in range(len(asked))} <= set(why)
    assert why["ticket 2"]["evidence"] == {"before": "fp32"}
    for wrong in ("x" * 501, "%00", "two%0Alines"):
        answer = client.post(f"{VARIANT}/fp32/activate?reason={wrong}")
        assert (answer.status_code, answer.json()["field"]) == (422, "reason"), answer.text
