"""New variants over the API while the gateway runs: every way in, and every way to be refused."""

import asyncio
import hashlib
import os
import pickle
import signal
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests import ladder as ladders
from tests import models, world
from tests.calls import Caller
from tests.ladder import MODEL, Ladder
from variants.data_folder import open_data_folder

VARIANTS = f"/v1/models/{MODEL}/variants"
WAIT = {"Prefer": "wait=90"}
ROW = [1.0, 2.0, 3.0, 4.0]


@pytest.fixture(scope="module")
def data_dir(built_ladder: Ladder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ladder of this file's own."""
    return built_ladder.copy(tmp_path_factory.mktemp("registration") / "data").root


@pytest.fixture(scope="module")
def shared(built_ladder: Ladder, data_dir: Path) -> Iterator[world.Gateway]:
    """A gateway for tests that leave the ladder's own variants as they were."""
    with world.gateway(data_dir, built_ladder.key, env=ladders.ENV) as gateway:
        yield gateway
    log = "".join(gateway.log)
    assert "Traceback" not in log
    assert "never retrieved" not in log


@pytest.fixture
def client(shared: world.Gateway) -> Iterator[httpx.Client]:
    with shared.client() as opened:
        opened.timeout = httpx.Timeout(120)
        yield opened


def register(
    client: httpx.Client, name: str, digest: str, headers: dict[str, str] = WAIT, **fields: object
) -> httpx.Response:
    body = {"name": name, "artifact": {"digest": digest}, **fields}
    return client.post(VARIANTS, json=body, headers=headers)


def upload_bytes(client: httpx.Client, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    client.put(f"/v1/blobs/{digest}", content=content).raise_for_status()
    return digest


def infer(client: httpx.Client, variant: str) -> httpx.Response:
    return client.post(
        "/infer",
        json={"model": MODEL, "inputs": ROW},
        headers={"Infer-Variants": f'"{variant}"'},
    )


def failed(client: httpx.Client, name: str, content: bytes) -> str:
    """Register what must fail in its trial, and return the reason."""
    answer = register(client, name, upload_bytes(client, content))
    assert answer.status_code == 201, answer.text
    detail = answer.json()
    assert detail["state"] == "failed", detail
    assert [change["new_state"] for change in detail["history"]] == ["registered", "failed"]
    assert infer(client, name).status_code == 409
    return str(detail["reason"])


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def gone(pid: int, within_s: float = 3.0) -> bool:
    """Whether the process ends in time; a zombie has ended."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_a_new_variant_is_tried_profiled_and_served(client: httpx.Client, tmp_path: Path) -> None:
    digest = world.upload(client, ladders.onnx(tmp_path, "extra-1"))
    recipe = [{"technique": "pruned", "config": {"ratio": 0.5}}]
    answer = register(client, "extra-1", digest, parent="best", recipe=recipe)
    assert answer.status_code == 201, answer.text
    detail = answer.json()
    assert detail["state"] == "active"
    assert [change["new_state"] for change in detail["history"]] == [
        "registered",
        "verified",
        "profiled",
        "active",
    ]
    assert detail["accuracy"]["n"] == 400
    x = models.tiny_evaluation(400, wrong=20)
    right = (ladders.outputs("extra-1", x.inputs["x"]).argmax(axis=1) == x.labels).mean()
    assert detail["accuracy"]["value"] == pytest.approx(right)
    assert set(detail["latency_ms"]) == {"1", "2", "4", "8", "16", "32"}
    assert detail["measured_here"] is True
    assert detail["technique"] == "pruned"
    best = client.get(f"{VARIANTS}/best").json()
    assert detail["parent"] == best["manifest_id"]
    served = infer(client, "extra-1")
    assert served.status_code == 200, served.text
    expected = ladders.outputs("extra-1", np.array([ROW], dtype=np.float32))
    assert np.allclose(served.json()["outputs"]["logits"], expected, atol=1e-4)


def test_without_a_wait_the_answer_is_202_and_the_location_tells_the_rest(
    client: httpx.Client, tmp_path: Path
) -> None:
    digest = world.upload(client, ladders.onnx(tmp_path, "extra-2"))
    answer = register(client, "extra-2", digest, headers={}, activate=False)
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] == "registered"
    end = time.monotonic() + 60
    while (found := client.get(answer.headers["location"]).json())["state"] != "inactive":
        assert time.monotonic() < end, found
        time.sleep(0.05)
    assert infer(client, "extra-2").status_code == 409


def test_several_registrations_at_once_are_tried_one_after_another(
    client: httpx.Client, shared: world.Gateway, tmp_path: Path
) -> None:
    names = ["extra-11", "extra-12", "extra-13"]
    digests = [world.upload(client, ladders.onnx(tmp_path, name)) for name in names]

    async def all_at_once() -> list[Any]:
        async def one(name: str, digest: str) -> Any:
            async with Caller(shared.port, shared.key) as caller:
                body = {"name": name, "artifact": {"digest": digest}}
                return await caller.ask("POST", VARIANTS, body, WAIT)

        return await asyncio.gather(*map(one, names, digests))

    answers = asyncio.run(all_at_once())
    assert [answer.status for answer in answers] == [201] * 3
    assert [answer.json["state"] for answer in answers] == ["active"] * 3
    assert [infer(client, name).status_code for name in names] == [200] * 3


def test_a_digest_that_the_bytes_do_not_have_is_refused(client: httpx.Client) -> None:
    wrong = hashlib.sha256(b"something else").hexdigest()
    answer = client.put(f"/v1/blobs/{wrong}", content=b"bytes")
    assert (answer.status_code, answer.json()["field"]) == (422, "digest")
    assert register(client, "nothing", wrong).status_code == 404


def refused(client: httpx.Client, name: str, content: bytes) -> str:
    """Try to register what is plainly no ONNX file, and return the refusal."""
    answer = register(client, name, upload_bytes(client, content))
    assert (answer.status_code, answer.json()["code"]) == (415, "format-not-allowed")
    assert client.get(f"{VARIANTS}/{name}").status_code == 404
    return str(answer.json()["detail"])


def test_a_pickle_is_refused_and_never_run(client: httpx.Client, tmp_path: Path) -> None:
    canary = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {canary}",)

    assert "pickle" in refused(client, "pickled", pickle.dumps(Payload()))
    assert not canary.exists()


def test_what_is_plainly_no_model_is_refused(client: httpx.Client) -> None:
    assert "no field of an ONNX model" in refused(client, "text", b"this is not a model at all")


def test_an_archive_is_refused(client: httpx.Client, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"anything")
    assert "zip" in refused(client, "zipped", path.read_bytes())


def test_another_signature_fails(client: httpx.Client) -> None:
    wide = models.graph(
        [helper.make_node("Identity", ["x"], ["logits"])],
        outputs=[models.tensor("logits", [models.BATCH, models.FEATURES])],
    )
    reason = failed(client, "wide", models.model(wide).SerializeToString())
    assert "logits float32[4]" in reason
    assert "logits float32[3]" in reason


def test_outputs_that_are_no_numbers_fail(client: httpx.Client) -> None:
    weight, bias = models.weights()
    nodes = [
        helper.make_node("Gemm", ["x", "weight", "bias"], ["sums"]),
        helper.make_node("Sqrt", ["sums"], ["logits"]),
    ]
    initializers = [
        numpy_helper.from_array(weight, "weight"),
        numpy_helper.from_array(bias - 1000, "bias"),
    ]
    graph = models.graph(nodes, initializers=initializers)
    assert "NaN" in failed(client, "nan", models.model(graph).SerializeToString())


def test_a_taken_name_is_a_conflict_and_an_unknown_parent_is_refused(
    client: httpx.Client, tmp_path: Path
) -> None:
    digest = world.upload(client, ladders.onnx(tmp_path, "extra-3"))
    assert register(client, "best", digest).status_code == 409
    orphan = register(client, "orphan", digest, parent="nobody")
    assert (orphan.status_code, orphan.json()["field"]) == (422, "parent")
    assert client.get(f"{VARIANTS}/orphan").status_code == 404
    unknown = client.post("/v1/models/nobody/variants", json={"name": "a", "artifact": {}})
    assert unknown.status_code in (404, 422)


@pytest.mark.parametrize("depth", [33, 200, 255])
def test_a_recipe_that_could_not_be_read_again_is_refused_at_once(
    client: httpx.Client, depth: int
) -> None:
    config: dict[str, object] = {}
    for _ in range(depth - 1):
        config = {"a": config}
    recipe = [{"technique": "pruned", "config": config}]
    answer = register(client, "deep", "0" * 64, recipe=recipe)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert "nested" in answer.text
    recipe[0]["config"] = config["a"] if depth == 33 else {}
    assert register(client, "deep", "0" * 64, recipe=recipe).status_code == 404  # the blob


def test_a_damaged_or_missing_manifest_spoils_its_own_row_only(
    client: httpx.Client, data_dir: Path
) -> None:
    whole = client.get(VARIANTS).json()["variants"]
    row = next(found for found in whole if found["variant"] == "glacial")
    path = data_dir / "manifests" / f"{row['manifest_id']}.json"
    kept = path.read_bytes()
    try:
        for damage in (lambda: path.write_bytes(kept[:-20]), path.unlink):
            damage()
            for found in client.get(VARIANTS).json()["variants"]:
                damaged = found["variant"] == "glacial"
                assert bool(found["manifest_error"]) == damaged
                assert (found["runtime"] is None) == damaged or found["manifest_id"] is None
            detail = client.get(f"{VARIANTS}/glacial").json()
            assert "manifest" in detail["manifest_error"]
            assert detail["history"]
    finally:
        path.write_bytes(kept)
    assert client.get(VARIANTS).json()["variants"] == whole


def test_a_failed_variant_cannot_be_activated(client: httpx.Client) -> None:
    cut = models.linear()
    cut.graph.node[0].input[0] = "nowhere"
    assert "nowhere" in failed(client, "rubbish", cut.SerializeToString())
    answer = client.post(f"{VARIANTS}/rubbish/activate")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert infer(client, "rubbish").status_code == 409


def test_the_reference_and_the_last_variant_cannot_be_deactivated(client: httpx.Client) -> None:
    def move(name: str, to: str) -> httpx.Response:
        return client.post(f"{VARIANTS}/{name}/{to}")

    def reference(name: str) -> int:
        body = {"variant": name}
        return client.put(f"/v1/models/{MODEL}/reference", json=body).status_code

    active = client.get(f"/v1/models/{MODEL}").json()["active"]
    assert move("best", "deactivate").status_code == 409
    for name in set(active) - {"best"}:
        assert move(name, "deactivate").json()["state"] == "inactive"
    assert reference("fast") == 409
    assert move("best", "deactivate").status_code == 409
    assert infer(client, "fast").status_code == 409
    again = move("fast", "activate").json()
    assert (again["state"], again["engaged_on_workers"]) == ("active", 1)
    assert infer(client, "fast").status_code == 200
    assert reference("fast") == 200
    assert move("best", "deactivate").json()["state"] == "inactive"
    assert move("best", "deactivate").status_code == 200
    assert infer(client, "best").status_code == 409
    assert move("fast", "deactivate").status_code == 409
    for name in active:
        assert move(name, "activate").json()["state"] == "active"
    assert reference("best") == 200


def test_a_failed_load_leaves_what_serves(client: httpx.Client, data_dir: Path) -> None:
    """An artifact that its trial took, and that is damaged when it is activated."""
    client.post(f"{VARIANTS}/mid/deactivate").raise_for_status()
    with open_data_folder(data_dir) as data:
        blob = data.store.blob_path(data.registry.variant(MODEL, "mid").artifact_digest)
    whole = blob.read_bytes()
    blob.write_bytes(b"damaged")
    answer = client.post(f"{VARIANTS}/mid/activate")
    assert (answer.status_code, answer.json()["code"]) == (422, "load-failed")
    assert str(data_dir) not in answer.text
    assert client.get(f"{VARIANTS}/mid").json()["state"] == "inactive"
    assert infer(client, "mid").status_code == 409
    assert infer(client, "best").status_code == 200
    assert client.get("/readyz").status_code == 200
    blob.write_bytes(whole)
    assert client.post(f"{VARIANTS}/mid/activate").json()["state"] == "active"
    assert infer(client, "mid").status_code == 200


def test_what_waits_for_a_variant_is_served_before_it_leaves(
    client: httpx.Client, shared: world.Gateway
) -> None:
    """`glacial` takes a second a batch, so these wait while it is deactivated."""

    async def drain() -> list[Any]:
        async def one(path: str, body: Any, headers: dict[str, str]) -> Any:
            async with Caller(shared.port, shared.key) as caller:
                return await caller.ask("POST", path, body, headers)

        pinned = {"Infer-Variants": '"glacial"'}
        waiting = [
            asyncio.create_task(one("/infer", {"model": MODEL, "inputs": [ROW] * 20}, pinned))
            for _ in range(3)
        ]
        await asyncio.sleep(0.3)
        leaving = asyncio.create_task(one(f"{VARIANTS}/glacial/deactivate", None, {}))
        await asyncio.sleep(0.2)
        late = await one("/infer", {"model": MODEL, "inputs": ROW}, pinned)
        assert late.status == 409, late.body
        return [*await asyncio.gather(*waiting), await leaving]

    *answers, left = asyncio.run(drain())
    assert [(answer.status, answer.variant) for answer in answers] == [(200, "glacial")] * 3
    assert left.json["state"] == "inactive"
    assert left.done_s >= max(answer.done_s for answer in answers) - 0.1
    client.post(f"{VARIANTS}/glacial/activate").raise_for_status()


def begin_long_trial(gateway: world.Gateway, tmp_path: Path) -> int:
    """Begin to register a variant whose trial takes long, and return its process."""
    with gateway.client() as client:
        path = models.slow_onnx(tmp_path / "long.onnx", iterations=20_000)
        answer = register(client, "long", world.upload(client, path), headers={})
        assert answer.status_code == 202
    end = time.monotonic() + 20
    while time.monotonic() < end:
        for child in children(gateway.process.pid):
            if b"variants.trial" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
        time.sleep(0.02)
    raise AssertionError("no trial began")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_stop_in_the_middle_of_a_trial_leaves_no_process_and_is_settled_at_the_next_start(
    ladder: Ladder, tmp_path: Path, how: signal.Signals
) -> None:
    with world.gateway(ladder.root, ladder.key, env=ladders.ENV) as gateway:
        trial = begin_long_trial(gateway, tmp_path)
        (worker,) = gateway.workers()
        with gateway.client() as client:  # the trial holds up nobody
            for _ in range(50):
                start = time.monotonic()
                assert infer(client, "fast").status_code == 200
                assert time.monotonic() - start < 1.0
        start = time.monotonic()
        gateway.process.send_signal(how)
        status = gateway.process.wait(20)
        assert time.monotonic() - start < 5
        assert status == (0 if how == signal.SIGTERM else -how)
        assert gone(trial)
        assert gone(worker)
    with (
        world.gateway(ladder.root, ladder.key, env=ladders.ENV) as gateway,
        gateway.client() as client,
    ):
        found = client.get(f"{VARIANTS}/long").json()
        assert found["state"] == "failed"
        assert "stopped while it was registered" in found["reason"]
        assert found["history"][-1]["actor"] == "gateway"
        assert [infer(client, name).status_code for name in ("best", "mid", "fast")] == [200] * 3
