"""Two admins at once, a request sent twice, and what a caller has already."""

import asyncio
import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from app.recovery import claim_name
from tests import ladder as ladders
from tests import world
from tests.calls import Caller, Reply
from tests.ladder import MODEL, Ladder
from variants.data_folder import open_data_folder

VARIANTS = f"/v1/models/{MODEL}/variants"
REFERENCE = f"/v1/models/{MODEL}/reference"
PAIRS = 20


@pytest.fixture(scope="module")
def owned(built_ladder: Ladder, tmp_path_factory: pytest.TempPathFactory) -> Ladder:
    """A ladder of this file's own."""
    return built_ladder.copy(tmp_path_factory.mktemp("preconditions") / "data")


@pytest.fixture(scope="module")
def shared(owned: Ladder) -> Iterator[world.Gateway]:
    with world.gateway(owned.root, owned.key, env=ladders.ENV) as gateway:
        yield gateway
    assert "Traceback" not in "".join(gateway.log)


@pytest.fixture
def client(shared: world.Gateway) -> Iterator[httpx.Client]:
    with shared.client() as opened:
        yield opened


def tag(client: httpx.Client, path: str) -> str:
    return client.get(path).raise_for_status().headers["etag"]


def at_once(gateway: world.Gateway, *asked: tuple[str, str, object, dict[str, str]]) -> list[Reply]:
    """Several requests on connections of their own."""

    async def all_at_once() -> list[Reply]:
        async def one(method: str, path: str, body: object, headers: dict[str, str]) -> Reply:
            async with Caller(gateway.port, gateway.key) as caller:
                return await caller.ask(method, path, body, headers)

        return await asyncio.gather(*(one(*request) for request in asked))

    return asyncio.run(all_at_once())


# If-None-Match


@pytest.mark.parametrize("path", ["/v1/models", f"/v1/models/{MODEL}", VARIANTS, f"{VARIANTS}/mid"])
def test_what_the_caller_has_is_not_sent_again(client: httpx.Client, path: str) -> None:
    known = tag(client, path)
    for given in (known, f'"0-0", {known}', "*"):
        again = client.get(path, headers={"If-None-Match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", known)
    assert client.get(path, headers={"If-None-Match": '"0-0"'}).status_code == 200


# If-Match


def test_a_stale_tag_is_refused_and_nothing_changes(client: httpx.Client) -> None:
    known = tag(client, f"{VARIANTS}/mid")
    off = client.post(f"{VARIANTS}/mid/deactivate", headers={"If-Match": known})
    assert off.status_code == 200
    late = client.post(f"{VARIANTS}/mid/activate", headers={"If-Match": known})
    assert (late.status_code, late.json()["code"]) == (412, "precondition-failed")
    assert client.get(f"{VARIANTS}/mid").json()["state"] == "inactive"
    assert off.headers["etag"] != known
    on = client.post(f"{VARIANTS}/mid/activate", headers={"If-Match": off.headers["etag"]})
    assert on.json()["state"] == "active"


@pytest.mark.parametrize("given", ['W/"1-0"', '"99-0"', '"x"', '""'])
def test_what_is_no_present_tag_never_matches(client: httpx.Client, given: str) -> None:
    answer = client.put(REFERENCE, json={"variant": "best"}, headers={"If-Match": given})
    assert answer.status_code == 412


@pytest.mark.parametrize("given", ["7", '"1', "", 'x"1"', '"1" "2"'])
def test_what_is_no_tag_is_malformed(client: httpx.Client, given: str) -> None:
    answer = client.put(REFERENCE, json={"variant": "best"}, headers={"If-Match": given})
    assert (answer.status_code, answer.json()["field"]) == (400, "If-Match")


def test_any_tag_asks_only_for_existence(client: httpx.Client) -> None:
    put = client.put(REFERENCE, json={"variant": "best"}, headers={"If-Match": "*"})
    assert put.status_code == 200
    nothing = client.post(f"{VARIANTS}/nobody/activate", headers={"If-Match": "*"})
    assert nothing.status_code == 404
    no_version = client.post("/v1/keys", json={}, headers={"If-Match": "*"})
    assert no_version.status_code in (412, 422)


def test_of_two_admins_at_once_exactly_one_wins(
    client: httpx.Client, shared: world.Gateway
) -> None:
    for _ in range(PAIRS):
        known = {"If-Match": tag(client, f"/v1/models/{MODEL}")}
        answers = at_once(
            shared,
            ("PUT", REFERENCE, {"variant": "best"}, known),
            ("PUT", REFERENCE, {"variant": "fast"}, known),
        )
        assert sorted(answer.status for answer in answers) == [200, 412]
        won = "best" if answers[0].status == 200 else "fast"
        assert client.get(f"/v1/models/{MODEL}").json()["reference"] == won
    client.put(REFERENCE, json={"variant": "best"}).raise_for_status()


def test_a_key_is_revoked_only_as_it_was_seen(client: httpx.Client) -> None:
    id = make_key(client, "seen").json()["key"].split("_")[1]
    (version,) = [k["version"] for k in client.get("/v1/keys").json()["keys"] if k["id"] == id]
    stale = client.delete(f"/v1/keys/{id}", headers={"If-Match": f'"{version + 1}"'})
    assert stale.status_code == 412
    assert client.delete(f"/v1/keys/{id}", headers={"If-Match": f'"{version}"'}).status_code == 204
    assert client.delete(f"/v1/keys/{id}", headers={"If-Match": f'"{version}"'}).status_code == 412


# Idempotency-Key


def make_key(client: httpx.Client, name: str, **headers: str) -> httpx.Response:
    given = {key.replace("_", "-"): value for key, value in headers.items()}
    return client.post("/v1/keys", json={"name": name, "scopes": ["read"]}, headers=given)


def names(client: httpx.Client) -> list[str]:
    return [key["name"] for key in client.get("/v1/keys").json()["keys"]]


def test_a_request_sent_twice_is_done_once(client: httpx.Client) -> None:
    first = make_key(client, "twice", idempotency_key='"a-1"')
    again = make_key(client, "twice", idempotency_key="a-1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert names(client).count("twice") == 1
    assert make_key(client, "twice", idempotency_key="a-2").json() != first.json()


def test_the_same_name_for_another_request_is_refused(client: httpx.Client) -> None:
    assert make_key(client, "one", idempotency_key="b").status_code == 201
    other = make_key(client, "two", idempotency_key="b")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    assert "two" not in names(client)
    elsewhere = client.post(f"{VARIANTS}/mid/activate", headers={"Idempotency-Key": "b"})
    assert elsewhere.status_code == 200


@pytest.mark.parametrize("name", ["", "a b", "x" * 300, "\u00e9"])
def test_what_is_no_name_is_malformed(client: httpx.Client, name: str) -> None:
    raw = {b"idempotency-key": name.encode("latin-1")}
    answer = client.post("/v1/keys", json={"name": "n", "scopes": ["read"]}, headers=raw)
    assert (answer.status_code, answer.json()["field"]) == (400, "Idempotency-Key")


def test_a_refusal_is_given_again_and_a_refused_precondition_is_not(client: httpx.Client) -> None:
    body = {"name": "ghost", "artifact": {"digest": "0" * 64}}
    first = client.post(VARIANTS, json=body, headers={"Idempotency-Key": "c"})
    again = client.post(VARIANTS, json=body, headers={"Idempotency-Key": "c"})
    assert (first.status_code, again.status_code) == (404, 404)
    assert again.content == first.content
    stale = {"Idempotency-Key": "d", "If-Match": '"0-0"'}
    assert client.post(f"{VARIANTS}/mid/activate", headers=stale).status_code == 412
    fresh = {"Idempotency-Key": "d", "If-Match": tag(client, f"{VARIANTS}/mid")}
    assert client.post(f"{VARIANTS}/mid/activate", headers=fresh).status_code == 200


def test_not_now_is_not_given_again(client: httpx.Client, owned: Ladder) -> None:
    """Another gateway is at work on the variant, as its claim says."""
    path, named = f"{VARIANTS}/mid/deactivate", {"Idempotency-Key": "busy-1"}
    with open_data_folder(owned.root) as data:
        release = data.database.claims.take(claim_name(MODEL, "mid"))
        assert release is not None
        busy = client.post(path, headers=named)
        assert (busy.status_code, busy.headers["retry-after"]) == (409, "1")
        release()
    assert client.post(path, headers=named).status_code == 200
    client.post(f"{VARIANTS}/mid/activate").raise_for_status()


def test_a_malformed_precondition_is_refused_before_an_answer_is_given_again(
    client: httpx.Client,
) -> None:
    assert make_key(client, "odd", idempotency_key="odd").status_code == 201
    odd = make_key(client, "odd", idempotency_key="odd", if_match="7")
    assert (odd.status_code, odd.json()["field"]) == (400, "If-Match")


def test_the_second_of_two_at_once_waits_its_turn(shared: world.Gateway) -> None:
    name = {"Idempotency-Key": "e"}
    body = {"name": "race", "scopes": ["read"]}
    answers = at_once(shared, *(("POST", "/v1/keys", body, name) for _ in range(10)))
    made = {answer.body for answer in answers if answer.status == 201}
    assert len(made) == 1
    for answer in answers:
        assert answer.status in (201, 409)
        if answer.status == 409:
            assert (answer.json["code"], answer.headers["retry-after"]) == ("in-flight", "1")


def test_a_rotated_secret_is_given_again(client: httpx.Client) -> None:
    id = make_key(client, "rotated").json()["key"].split("_")[1]
    name = {"Idempotency-Key": "rotate"}
    first = client.post(f"/v1/keys/{id}/rotate", json={"overlap_s": 0}, headers=name)
    again = client.post(f"/v1/keys/{id}/rotate", json={"overlap_s": 0}, headers=name)
    assert (first.status_code, again.json()) == (200, first.json())
    secret = {"authorization": f"Bearer {again.json()['key']}"}
    assert client.get("/v1/models", headers=secret).status_code == 200


def test_a_reply_outlives_its_gateway_and_holds_no_secret_in_the_clear(
    owned: Ladder, tmp_path: Path
) -> None:
    copy = owned.copy(tmp_path / "data")
    with world.gateway(copy.root, copy.key, env=ladders.ENV) as gateway, gateway.client() as client:
        first = make_key(client, "kept", idempotency_key="f")
        gateway.process.kill()
    secret = first.json()["key"]
    for path in copy.root.glob("registry*"):
        assert secret.encode() not in path.read_bytes()
        assert secret.split("_", 2)[2].encode() not in path.read_bytes()
    with closing(sqlite3.connect(copy.root / "registry.sqlite3")) as db:
        ids = [row[0] for row in db.execute("SELECT id FROM replies")]
    assert hashlib.sha256(b"f").hexdigest() not in ids
    with world.gateway(copy.root, copy.key, env=ladders.ENV) as gateway, gateway.client() as client:
        again = make_key(client, "kept", idempotency_key="f")
        assert (again.status_code, again.json()) == (201, first.json())
        assert names(client).count("kept") == 1
        assert client.get("/v1/models", headers={"authorization": f"Bearer {secret}"}).is_success
