"""Several gateways on one registry: each follows what the others and the command line change."""

import contextlib
import hashlib
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests import ladder as ladders
from tests import models, servers, world
from tests.faults.gateways import infer, pin, until
from tests.faults.table import drilled
from tests.ladder import MODEL, Ladder
from tests.servers import Bucket, Postgres
from variants.data_folder import open_data_folder

VARIANTS = f"/v1/models/{MODEL}/variants"
SOON_S = 1.0
LOADED_S = 3.0
"""What has to be loaded first is there so soon, on a busy machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two gateways on one PostgreSQL and one bucket, each with a folder of its own."""

    one: world.Gateway
    other: world.Gateway
    url: str
    root: Path
    server: Postgres
    bucket: Bucket


@pytest.fixture(scope="module")
def pair(built_ladder: Ladder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(servers.postgres())
        bucket = stack.enter_context(servers.bucket())
        url = server.database()
        copy = built_ladder.copy(folder / "one")
        with open_data_folder(copy.root) as data:
            ladders.publish_fake(data, "spare")
        world.move_to_postgres(copy.root, url)
        _upload(copy.root, bucket)
        for name in ("blobs", "manifests"):
            shutil.rmtree(copy.root / name)
        shutil.copytree(copy.root, folder / "other")  # the same pepper
        env = {
            **ladders.ENV,
            **bucket.env,
            "GEARSHIFT_WORKERS": "1",
            "GEARSHIFT_DATABASE_URL": url,
            "GEARSHIFT_STORE_URL": "s3://gearshift/store",
        }
        gateways = [
            stack.enter_context(world.gateway(folder / name, copy.key, env=env))
            for name in ("one", "other")
        ]
        yield Pair(
            one=gateways[0],
            other=gateways[1],
            url=url,
            root=folder / "one",
            server=server,
            bucket=bucket,
        )


def _upload(root: Path, bucket: Bucket) -> None:
    """What a store holds, put into the bucket as a store does."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in bucket.env.items():
            patch.setenv(name, value)
        from variants.remote import Remote

        remote = Remote("s3://gearshift/store")
        for path in (*root.glob("blobs/*/*"), *root.glob("manifests/*")):
            remote.put(path, str(path.relative_to(root)))


def reached(client: httpx.Client, variant: str, status: int) -> Callable[[], bool]:
    return lambda: infer(client, **pin(variant)).status_code == status


@pytest.mark.option("store_url")
def test_a_key_and_a_variant_changed_at_one_gateway_reach_the_other(pair: Pair) -> None:
    with pair.one.client() as one, pair.other.client() as other:
        key = one.post("/v1/keys", json={"name": "new", "scopes": ["read"]}).json()["key"]
        with pair.other.client(key) as fresh:
            made_s = until(lambda: fresh.get("/v1/models").status_code == 200, SOON_S)
            assert one.delete(f"/v1/keys/{key.split('_')[1]}").status_code == 204
            ended_s = until(lambda: fresh.get("/v1/models").status_code == 401, SOON_S)
        assert infer(other, **pin("spare")).status_code == 200
        assert one.post(f"{VARIANTS}/spare/deactivate").status_code == 200
        off_s = until(reached(other, "spare", 409), SOON_S)
        assert other.post(f"{VARIANTS}/spare/activate").status_code == 200
        on_s = until(reached(one, "spare", 200), LOADED_S)
        assert one.put(f"/v1/models/{MODEL}/reference", json={"variant": "mid"}).status_code == 200
        until(lambda: other.get(f"/v1/models/{MODEL}").json()["reference"] == "mid", SOON_S)
        seen = {"key made": made_s, "key ended": ended_s, "variant off": off_s, "on": on_s}
        drilled(
            "A7",
            "seconds until a change reaches the other gateway",
            {name: round(seconds, 2) for name, seconds in seen.items()},
        )


def test_a_key_ends_while_a_variant_drains(pair: Pair) -> None:
    with pair.one.client() as one, pair.other.client() as other, ThreadPoolExecutor(5) as pool:
        key = one.post("/v1/keys", json={"name": "new", "scopes": ["read"]}).json()["key"]
        with pair.other.client(key) as fresh:
            until(lambda: fresh.get("/v1/models").status_code == 200, SOON_S)
            asked = [pool.submit(infer, other, **pin("glacial")) for _ in range(3)]
            time.sleep(0.3)
            draining = pool.submit(other.post, f"{VARIANTS}/glacial/deactivate")
            time.sleep(0.7)
            assert one.delete(f"/v1/keys/{key.split('_')[1]}").status_code == 204
            until(lambda: fresh.get("/v1/models").status_code == 401, SOON_S)
            assert not draining.done()
        assert [answer.result().status_code for answer in asked] == [200] * 3
        assert draining.result().status_code == 200
        assert other.post(f"{VARIANTS}/glacial/activate").status_code == 200


def test_what_is_shown_late_is_tagged_as_it_is(pair: Pair) -> None:
    """What the other gateway shows before it has heard of a change cannot undo that change."""
    path, late = f"/v1/models/{MODEL}", 0
    with pair.one.client() as one, pair.other.client() as other:
        for variant in ("mid", "best", "mid", "best"):
            assert one.put(f"{path}/reference", json={"variant": variant}).status_code == 200
            seen = other.get(path)
            if seen.json()["reference"] != variant:
                late += 1
                known = {"If-Match": seen.headers["etag"]}
                undo = other.put(f"{path}/reference", json={"variant": "fast"}, headers=known)
                assert undo.status_code == 412
            until(lambda: other.get(path).json()["reference"] == variant, SOON_S)  # noqa: B023
    assert late


@pytest.mark.option("store_url")
def test_a_variant_registered_at_one_gateway_serves_at_the_other(
    pair: Pair, tmp_path: Path
) -> None:
    with pair.one.client() as one, pair.other.client() as other:
        digest = world.upload(one, ladders.onnx(tmp_path, "extra-7"))
        answer = other.post(  # whose folder does not have it
            VARIANTS,
            json={"name": "extra-7", "artifact": {"digest": digest}},
            headers={"prefer": "wait=20"},
        )
        assert answer.json()["state"] == "active", answer.text
        until(reached(one, "extra-7", 200), LOADED_S)


def test_what_the_command_line_changes_reaches_every_gateway(pair: Pair) -> None:
    with open_data_folder(pair.root, database_url=pair.url) as data:
        for state in ("draining", "inactive"):
            data.registry.move(MODEL, "fast", state, actor="test", reason="by hand")
    with pair.one.client() as one, pair.other.client() as other:
        for client in (one, other):
            until(reached(client, "fast", 409), SOON_S)
        with open_data_folder(pair.root, database_url=pair.url) as data:
            data.registry.move(MODEL, "fast", "active", actor="test", reason="by hand")
        for client in (one, other):
            until(reached(client, "fast", 200), LOADED_S)


def test_two_admins_at_two_gateways_never_both_win(pair: Pair) -> None:
    def ask(client: httpx.Client, verb: str) -> int:
        return client.post(f"{VARIANTS}/spare/{verb}").status_code

    with (
        pair.one.client() as one,
        pair.other.client() as other,
        ThreadPoolExecutor(4) as pool,
        open_data_folder(pair.root, database_url=pair.url) as data,
    ):
        for _ in range(5):
            asked = [
                pool.submit(ask, client, verb)
                for client in (one, other)
                for verb in ("activate", "deactivate")
            ]
            assert {answer.result() for answer in asked} <= {200, 409}
        state = None
        for line in data.audit.of(MODEL, "spare"):
            assert line.old_state == state
            state = line.new_state
        assert state == data.registry.variant(MODEL, "spare").state
        routable = 200 if state == "active" else 409
        for client in (one, other):
            until(reached(client, "spare", routable), LOADED_S)


def test_a_database_that_goes_away_stops_no_gateway_and_both_come_back(pair: Pair) -> None:
    with pair.one.client() as one, pair.other.client() as other:
        pair.server.stop(signal.SIGINT)
        for client in (one, other):
            until(lambda c=client: "unreachable" in str(c.get("/readyz").json()["registry"]))
            assert client.get("/readyz").status_code == 200
            assert "gearshift_registry_up 0.0" in client.get("/metrics").text
            assert infer(client).status_code == 200
            start = time.monotonic()
            refused = client.post("/v1/keys", json={"name": "new", "scopes": ["read"]})
            assert (refused.status_code, refused.json()["code"]) == (503, "registry-unavailable")
            assert int(refused.headers["retry-after"]) >= 1
            assert str(pair.server.folder) not in refused.text
            assert time.monotonic() - start < 6
        pair.server.start()
        for client in (one, other):
            until(lambda c=client: c.get("/readyz").json()["registry"] is None)
        key = one.post("/v1/keys", json={"name": "new", "scopes": ["read"]}).json()["key"]
        with pair.other.client(key) as fresh:
            until(lambda: fresh.get("/v1/models").status_code == 200, 2 * SOON_S)


def test_a_bucket_that_goes_away_stops_uploads_only(pair: Pair, tmp_path: Path) -> None:
    """The last test: the bucket does not come back."""
    pair.bucket.process.kill()
    with pair.one.client() as one:
        content = models.tiny_onnx(tmp_path / "late.onnx", seed=77).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        refused = one.put(f"/v1/blobs/{digest}", content=content)
        assert (refused.status_code, refused.json()["code"]) == (503, "storage-broken")
        assert infer(one).status_code == 200
        assert one.get("/readyz").status_code == 200
