"""Uploads at once and in parts: cut anywhere, in the wrong order, too many and too large."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests import ladder as ladders
from tests import world
from tests.ladder import MODEL, Ladder
from tests.raw import Connection, assert_problem, request
from variants.data_folder import open_data_folder

CUTS = 24
SMALL = {
    "GEARSHIFT_UPLOADS_PER_KEY": "2",
    "GEARSHIFT_UPLOADS": "3",
    "GEARSHIFT_UNFINISHED_BYTES_PER_KEY": "50000",
    "GEARSHIFT_UNFINISHED_BYTES": "80000",
    "GEARSHIFT_MAX_BLOB_BYTES": "60000",
    "GEARSHIFT_BODY_TIMEOUT_S": "1",
    "GEARSHIFT_HEAD_TIMEOUT_S": "1",
}


@pytest.fixture(scope="module")
def owned(built_ladder: Ladder, tmp_path_factory: pytest.TempPathFactory) -> Ladder:
    """A ladder of this file's own."""
    return built_ladder.copy(tmp_path_factory.mktemp("uploads") / "data")


@pytest.fixture(scope="module")
def other_key(owned: Ladder) -> str:
    with open_data_folder(owned.root) as data:
        return world.make_key(data)


@pytest.fixture(scope="module")
def shared(owned: Ladder, other_key: str) -> Iterator[world.Gateway]:
    """A gateway with small limits."""
    with world.gateway(owned.root, owned.key, env={**ladders.ENV, **SMALL}) as gateway:
        yield gateway
    assert "Traceback" not in "".join(gateway.log)


@pytest.fixture
def client(shared: world.Gateway) -> Iterator[httpx.Client]:
    with shared.client() as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_left(owned: Ladder) -> Iterator[None]:
    """No upload is left behind by a test."""
    yield
    assert until_empty(owned.root / "uploads") == []


def until_empty(folder: Path) -> list[str]:
    end = time.monotonic() + 5
    while (names := [path.name for path in folder.iterdir()]) and time.monotonic() < end:
        time.sleep(0.02)
    return names


def blob(text: str, size: int = 1000) -> tuple[bytes, str]:
    """Some bytes and their path."""
    content = (text.encode() * size)[:size]
    return content, f"/v1/blobs/{hashlib.sha256(content).hexdigest()}"


def part(
    client: httpx.Client, path: str, content: bytes, offset: int, complete: str = "?1"
) -> httpx.Response:
    headers = {"Upload-Offset": str(offset), "Upload-Complete": complete}
    return client.patch(path, content=content, headers=headers)


def began(
    gateway: world.Gateway, path: str, content: bytes, size: int, **options: str
) -> Connection:
    """A connection that has sent the head and some of the body, and not the rest."""
    headers = [("content-length", str(size)), ("upload-offset", options.get("offset", "0"))]
    data = request(
        options.get("method", "PATCH"),
        path,
        content,
        key=options.get("key", gateway.key),
        headers=headers,
    )
    connection = Connection(gateway.port)
    connection.send(data)
    return connection


def offset(client: httpx.Client, path: str, at_least: int = 0) -> int:
    """How far an upload got, once it got there."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        answer = client.head(path)
        assert answer.content == b""
        found = int(answer.headers.get("upload-offset", 0))
        if answer.status_code == 200 and found >= at_least:
            assert answer.headers["upload-complete"] == "?0"
            return found
        time.sleep(0.02)
    raise AssertionError(f"{answer.status_code}: {found} of {at_least} bytes")


def test_an_upload_cut_at_any_byte_goes_on_there(
    client: httpx.Client, shared: world.Gateway
) -> None:
    went_on = 0
    for cut in range(1, 1000, 1000 // CUTS):
        content, path = blob(f"cut {cut}")
        with began(shared, path, content[:cut], len(content)):
            time.sleep(0.02)
        went_on += resumed(client, path, content) > 0
        found = client.get(path)
        assert (found.json()["complete"], found.headers["upload-offset"]) == (True, "1000")
    assert went_on > CUTS / 2  # a connection that is lost at once may have brought nothing


def resumed(client: httpx.Client, path: str, content: bytes) -> int:
    """Finish an upload as a client would, and return from which byte on."""
    while True:
        at = int(client.head(path).headers.get("upload-offset", 0))
        answer = part(client, path, content[at:], at)
        if answer.status_code == 201:
            return at
        # the gateway may not have seen yet that the first connection is gone
        assert answer.json()["code"] in ("conflict", "mismatching-upload-offset"), answer.text
        time.sleep(0.01)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_damaged_blob_is_replaced_by_an_upload(
    client: httpx.Client, owned: Ladder, method: str
) -> None:
    content, path = blob(f"damaged {method}")
    headers = {"upload-offset": "0"} if method == "PATCH" else {}
    assert client.request(method, path, content=content, headers=headers).status_code == 201
    lies = owned.root / "blobs" / path[10:12] / path[10:]
    lies.write_bytes(content[:-1] + b"?")
    assert client.request(method, path, content=content, headers=headers).status_code == 201
    assert lies.read_bytes() == content
    assert client.request(method, path, content=content, headers=headers).status_code == 200


def test_an_upload_at_once_that_is_cut_leaves_nothing(
    client: httpx.Client, shared: world.Gateway
) -> None:
    for cut in range(1, 1000, 1000 // 8):
        content, path = blob(f"at once {cut}")
        began(shared, path, content[:cut], len(content), method="PUT").close()
        assert client.head(path).status_code == 404
        assert client.put(path, content=content).status_code == 201
        assert client.put(path, content=content).status_code == 200


def test_parts_follow_each_other_and_are_checked_at_the_end(client: httpx.Client) -> None:
    content, path = blob("parts")
    for start in range(0, 900, 300):
        answer = part(client, path, content[start : start + 300], start, "?0")
        assert answer.status_code == 202
        assert answer.json() == {
            "digest": path.rpartition("/")[2],
            "size_bytes": start + 300,
            "complete": False,
        }
    assert part(client, path, content[900:], 900).status_code == 201
    assert part(client, path, b"more", 1000).status_code == 200


def test_a_part_at_another_byte_is_told_the_right_one(client: httpx.Client) -> None:
    content, path = blob("offsets")
    assert part(client, path, content[:400], 0, "?0").status_code == 202
    for wrong in (0, 399, 401, 10**15):
        answer = part(client, path, content[400:], wrong)
        assert (answer.status_code, answer.json()["code"]) == (409, "mismatching-upload-offset")
        assert (answer.json()["expected-offset"], answer.headers["upload-offset"]) == (400, "400")
    assert part(client, path, content[400:], 400).status_code == 201


@pytest.mark.parametrize("given", [{}, {"Upload-Offset": "-1"}, {"Upload-Offset": "x"}])
def test_a_part_without_a_sound_offset_is_refused(
    client: httpx.Client, given: dict[str, str]
) -> None:
    assert client.patch(blob("none")[1], content=b"x", headers=given).status_code == 422
    strange = {"Upload-Offset": "0", "Upload-Complete": "yes"}
    assert client.patch(blob("none")[1], content=b"x", headers=strange).status_code == 422


def test_other_bytes_than_promised_are_forgotten(client: httpx.Client) -> None:
    content, path = blob("promised")
    assert part(client, path, content[:500], 0, "?0").status_code == 202
    answer = part(client, path, b"x" * 500, 500)
    assert (answer.status_code, answer.json()["field"]) == (422, "digest")
    assert client.head(path).status_code == 404


def test_an_upload_may_be_cancelled(client: httpx.Client) -> None:
    content, path = blob("cancelled")
    assert part(client, path, content[:500], 0, "?0").status_code == 202
    assert client.delete(path).status_code == 204
    assert client.head(path).status_code == 404
    assert client.delete(path).status_code == 404


def test_an_upload_belongs_to_the_key_that_began_it(
    client: httpx.Client, shared: world.Gateway, other_key: str
) -> None:
    content, path = blob("mine")
    assert part(client, path, content[:500], 0, "?0").status_code == 202
    with shared.client(other_key) as other:
        assert other.head(path).status_code == 404
        assert other.delete(path).status_code == 404
        assert part(other, path, b"spoilt", 500).status_code == 409
        assert part(other, path, content, 0).status_code == 201
    assert part(client, path, content[500:], 500).status_code == 200
    client.delete(path).raise_for_status()


def test_two_cannot_append_to_one_upload_at_once(
    client: httpx.Client, shared: world.Gateway
) -> None:
    content, path = blob("twice at once")
    first = began(shared, path, content[:100], len(content))
    end = time.monotonic() + 5
    while client.head(path).status_code != 200:
        assert time.monotonic() < end
    second = part(client, path, content, 0)
    assert (second.status_code, second.json()["code"]) == (409, "conflict")
    first.send(content[100:])
    answer = first.answer()
    assert answer is not None and answer.status == 201
    first.close()


@pytest.mark.option("uploads", "uploads_per_key", "max_blob_bytes")
def test_uploads_at_once_are_counted_by_key_and_in_all(
    client: httpx.Client, shared: world.Gateway, other_key: str
) -> None:
    content, path = blob("waiting")
    with ExitStack() as stack:
        for number in range(2):
            body, where = blob(f"slow {number}")
            stack.enter_context(began(shared, where, body[:10], len(body), method="PUT"))
        time.sleep(0.2)  # the places are taken when the heads are read
        full = client.put(path, content=content)
        assert (full.status_code, full.json()["code"]) == (429, "too-many-uploads")
        assert full.headers["retry-after"] == "1"
        with shared.client(other_key) as other:
            body, where = blob("slow other")
            third = began(shared, where, body[:10], len(body), key=other_key)
            stack.enter_context(third)
            time.sleep(0.2)
            assert other.put(path, content=content).status_code == 429
            started = time.monotonic()
            answer = third.answer()
            assert answer is not None
            assert_problem(answer, 408, "body-timeout")
            assert time.monotonic() - started < 4
            assert offset(other, where, 10) == 10
            other.delete(where).raise_for_status()
    assert client.put(path, content=content).status_code == 201


def test_an_upload_that_drips_gives_its_place_back_and_can_go_on(
    client: httpx.Client, shared: world.Gateway
) -> None:
    content, path = blob("dripping")
    started, sent = time.monotonic(), 1
    with began(shared, path, content[:1], len(content)) as dripping:
        while not dripping.readable(0.3):
            assert time.monotonic() - started < 10
            dripping.send(content[sent : sent + 1])
            sent += 1
        answer = dripping.answer()
    assert answer is not None
    assert_problem(answer, 408, "body-timeout")
    assert time.monotonic() - started > 3
    here = int(client.head(path).headers["upload-offset"])
    assert sent - 2 <= here <= sent
    assert part(client, path, content[here:], here).status_code == 201


@pytest.mark.option("unfinished_bytes", "unfinished_bytes_per_key")
def test_unfinished_bytes_are_counted_by_key_and_in_all(
    client: httpx.Client, shared: world.Gateway, other_key: str
) -> None:
    content, path = blob("large", 45_000)
    assert part(client, path, content[:40_000], 0, "?0").status_code == 202
    more, where = blob("more", 20_000)
    full = part(client, where, more, 0)
    assert (full.status_code, full.json()["code"]) == (507, "storage-full")
    assert int(full.headers["retry-after"]) > 0
    with shared.client(other_key) as other:
        assert part(other, where, blob("more", 45_000)[0], 0).status_code == 507
        assert part(other, where, more, 0).status_code == 201
    assert part(client, path, content[40_000:], 40_000).status_code == 201
    assert client.put(blob("huge")[1], content=bytes(60_001)).status_code == 413


@pytest.mark.option("min_free_bytes")
def test_no_upload_begins_on_a_disk_below_its_watermark_and_inference_goes_on(
    ladder: Ladder, tmp_path: Path
) -> None:
    """The uploads that were begun before are there after the restart."""
    content, path = blob("before", 1000)
    with (
        world.gateway(ladder.root, ladder.key, env=ladders.ENV) as gateway,
        gateway.client() as client,
    ):
        assert part(client, path, content[:600], 0, "?0").status_code == 202
        assert "gearshift_disk_low 0.0" in client.get("/metrics").text
    env = {**ladders.ENV, "GEARSHIFT_MIN_FREE_BYTES": str(1 << 60)}
    with world.gateway(ladder.root, ladder.key, env=env) as gateway, gateway.client() as client:
        assert offset(client, path) == 600
        full = part(client, path, content[600:], 600)
        assert (full.status_code, full.json()["code"]) == (507, "storage-full")
        assert str(ladder.root) not in full.text
        assert client.put(path, content=content).status_code == 507
        assert "gearshift_disk_low 1.0" in client.get("/metrics").text
        body = {"model": MODEL, "inputs": [1.0, 2.0, 3.0, 4.0]}
        assert client.post("/infer", json=body).status_code == 200
    with (
        world.gateway(ladder.root, ladder.key, env=ladders.ENV) as gateway,
        gateway.client() as client,
    ):
        assert part(client, path, content[600:], 600).status_code == 201


NAMES = (
    "../../x", "..%2f..%2fx", "%2e%2e/x", "/etc/passwd", "C:%5Cx", "%00", "x" * 300, "CON", "",
    "0" * 63, "0" * 65, "A" * 64, "%EF%BC%8E" * 20, "0" * 64 + "%0a", "%E2%80%A4" * 2,
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_blob_has_no_name_but_its_digest(shared: world.Gateway, owned: Ladder, name: str) -> None:
    before = sorted(path for path in owned.root.parent.rglob("*") if path.is_dir())
    for method in ("PUT", "PATCH", "GET", "DELETE"):
        with Connection(shared.port) as connection:
            given = [("upload-offset", "0")]
            data = request(method, f"/v1/blobs/{name}", b"x", key=shared.key, headers=given)
            connection.send(data)
            answer = connection.answer()
        assert answer is not None and answer.status in (404, 405, 422), (name, answer)
        assert answer.headers["content-type"] == "application/problem+json"
    after = sorted(path for path in owned.root.parent.rglob("*") if path.is_dir())
    assert after == before


ADDRESSES = (
    "http://169.254.169.254/latest/meta-data/", "file:///etc/passwd", "http://2852039166/",
    "http://0251.0376.0251.0376/", "http://[::ffff:169.254.169.254]/", "ftp://x/y",
    "gopher://x:1/_", "//evil.example/x", "\\\\evil\\x",
)  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_nothing_is_fetched_from_an_address(client: httpx.Client, address: str) -> None:
    """The feature is absent: wherever an address is put, it is no digest and no field (U18)."""
    for artifact in ({"digest": address}, {"url": address}, {"digest": "0" * 64, "url": address}):
        answer = client.post(
            f"/v1/models/{MODEL}/variants", json={"name": "fetched", "artifact": artifact}
        )
        assert answer.status_code == 422, answer.text
    beside = {"name": "fetched", "artifact": {"digest": "0" * 64}, "url": address}
    assert client.post(f"/v1/models/{MODEL}/variants", json=beside).status_code == 422


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "a\u202eb", "../x", "A", "x" * 64, ""]
)
def test_a_variant_has_a_plain_name(client: httpx.Client, name: str) -> None:
    body = {"name": name, "artifact": {"digest": "0" * 64}}
    answer = client.post(f"/v1/models/{MODEL}/variants", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, "name")
    assert "<script>" not in answer.text
    assert answer.headers["content-type"] == "application/problem+json"


PART = b"--x\r\ncontent-disposition: form-data; name=a"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"--x\n" * 10_000 + b"--x--\n", 422),
        (PART + b"\r\nx-long: " + b"a" * (1 << 20) + b"\r\n\r\n\r\n--x--\r\n", 413),
        (b"p" * (4 << 20) + b"\r\n" + PART + b"\r\n\r\n\r\n--x--\r\n", 413),
    ],
    ids=["10,000 parts", "a part's header of 1 MB", "a preamble of 4 MB"],
)
def test_parts_of_a_form_are_bytes_like_any_other(
    client: httpx.Client, content: bytes, status: int
) -> None:
    """There is no parser of forms: nothing of one is ever looked at (U15)."""
    form = {"content-type": "multipart/form-data; boundary=x"}
    begun = time.monotonic()
    wrong = f"/v1/blobs/{hashlib.sha256(content[:-1]).hexdigest()}"
    answer = client.put(wrong, content=content, headers=form)
    assert answer.status_code == status, answer.text
    for path in ("/v1/keys", f"/v1/models/{MODEL}/variants", "/infer"):
        assert client.post(path, content=content, headers=form).status_code in {413, 415}, path
    assert time.monotonic() - begun < 5
    assert client.get("/v1/models").status_code == 200
