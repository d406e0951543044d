"""What a new variant must pass over the API, what each gate says, and what becomes of it then."""

import hashlib
import json
import os
import pickle
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import helper, numpy_helper

from app.findings import GATES
from tests import models, world
from tests.faults.table import drilled
from variants.data_folder import open_data_folder

MODEL = "tiny"
VARIANTS = f"/v1/models/{MODEL}/variants"
WAIT = {"Prefer": "wait=90"}
ENV = {"GEARSHIFT_PROFILE_S": "0.01"}


def like_the_reference(path: Path, noise: float = 0.0) -> Path:
    """The reference's weights, a little off."""
    built = models.linear(0)
    weight = numpy_helper.to_array(built.graph.initializer[0])
    off = weight + np.float32(noise) * np.random.default_rng(1).normal(size=weight.shape)
    built.graph.initializer[0].CopyFrom(numpy_helper.from_array(off.astype("f4"), "weight"))
    return models.save(built, path)


def make_data(folder: Path) -> str:
    """A model with one variant, its reference, and a key."""
    with open_data_folder(folder / "data") as data:
        paths = {"fp32": models.tiny_onnx(folder / "fp32.onnx")}
        world.publish(data, models.tiny_spec(), models.tiny_evaluation(200, wrong=20), paths)
        return world.make_key(data)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("gates")
    key = make_data(folder)
    with world.gateway(folder / "data", key, env=ENV) as gateway:
        with gateway.client() as opened:
            opened.timeout = httpx.Timeout(120)
            yield opened
        log = "".join(gateway.log)
        assert "Traceback" not in log and "never retrieved" not in log


def upload(client: httpx.Client, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    client.put(f"/v1/blobs/{digest}", content=content).raise_for_status()
    return digest


def register(client: httpx.Client, name: str, path: Path, **fields: Any) -> dict[str, Any]:
    body = {"name": name, "artifact": {"digest": upload(client, path.read_bytes())}, **fields}
    answer = client.post(VARIANTS, json=body, headers=WAIT)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def gates_of(detail: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What was found at each gate, by the history of a variant."""
    return {
        finding["gate"]: finding
        for entry in detail["history"]
        if entry["evidence"] is not None and "gates" in entry["evidence"]
        for finding in entry["evidence"]["gates"]
    }


def test_agreement_with_the_reference_is_measured_and_recorded(
    client: httpx.Client, tmp_path: Path
) -> None:
    detail = register(client, "near", like_the_reference(tmp_path / "near.onnx", 0.05))
    assert detail["state"] == "active"
    found = gates_of(detail)
    assert set(found) == set(GATES)
    agreement = found["agreement"]["evidence"]
    x = models.tiny_evaluation(200, wrong=20).inputs["x"]
    built = numpy_helper.to_array(
        models.onnx.load(tmp_path / "near.onnx").graph.initializer[0]  # type: ignore[attr-defined]
    )
    mine, its = models.tiny_logits(x), x @ built + models.weights()[1]
    agreed = int((mine.argmax(axis=1) == its.argmax(axis=1)).sum())
    assert (agreement["reference"], agreement["n"], agreement["agreed"]) == ("fp32", 200, agreed)
    assert agreement["low"] < agreement["value"] == agreed / 200 <= agreement["high"]
    assert agreement["max_abs_difference"] == pytest.approx(np.abs(mine - its).max(), rel=1e-3)
    assert agreement["required"] == 0.5


@pytest.mark.option("min_agreement")
def test_a_variant_that_answers_otherwise_fails_whatever_is_asked_for(
    client: httpx.Client, tmp_path: Path
) -> None:
    other = models.tiny_onnx(tmp_path / "other.onnx", seed=9)
    detail = register(client, "other", other)
    assert detail["state"] == "failed"
    assert "of 200 evaluation rows have the answer of 'fp32'" in detail["reason"]
    found = gates_of(detail)
    assert (found["load"]["outcome"], found["agreement"]["outcome"]) == ("passed", "failed")
    digest = upload(client, other.read_bytes())
    for asked in (0, 0.49):
        body = {"name": "meant", "artifact": {"digest": digest}, "min_agreement": asked}
        for params in ({}, {"validate": "only"}):
            refused = client.post(VARIANTS, params=params, json=body)
            assert (refused.status_code, refused.json()["code"]) == (422, "invalid")
            assert "at least 0.5" in refused.json()["detail"]
        assert client.get(f"{VARIANTS}/meant").status_code == 404
    near = like_the_reference(tmp_path / "near.onnx", 0.05)
    strict = register(client, "strict", near, min_agreement=1)
    assert gates_of(strict)["agreement"]["outcome"] == "failed"
    assert client.post(f"{VARIANTS}/other/retire").json()["state"] == "retired"


def foreign(path: Path) -> Path:
    """A file whose second node is an operator that its opset does not have."""
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Gelu", ["same"], ["logits"]),
    ]
    return models.save(models.model(models.graph(nodes), opset=18), path)


def other_signature(path: Path) -> Path:
    return models.picture_onnx(path)


def pickled(path: Path) -> Path:
    path.write_bytes(pickle.dumps([1, 2, 3]))
    return path


@pytest.mark.parametrize(
    ("make", "failed", "detail"),
    [
        (like_the_reference, None, ""),
        (pickled, "format", "pickle"),
        (foreign, "structure", "node 1, operator Gelu, opset 18 is not allowed"),
        (other_signature, "signature", "the model has x float32[4]"),
        (lambda path: models.tiny_onnx(path, seed=9), "agreement", "the lower bound must be"),
    ],
    ids=["good", "format", "structure", "signature", "agreement"],
)
def test_a_dry_run_says_what_each_gate_finds_and_writes_nothing(
    client: httpx.Client, tmp_path: Path, make: Any, failed: str | None, detail: str
) -> None:
    digest = upload(client, make(tmp_path / "new.onnx").read_bytes())

    def written() -> tuple[str, Any]:
        return client.get("/v1/audit").text, client.get(VARIANTS).json()

    before = written()
    body = {"name": "dry", "artifact": {"digest": digest}}
    answer = client.post(VARIANTS, params={"validate": "only"}, json=body)
    assert answer.status_code == 200, answer.text
    assert written() == before
    found = answer.json()
    assert [gate["gate"] for gate in found["gates"]] == list(GATES)
    assert found["passed"] is (failed is None)
    outcomes = [gate["outcome"] for gate in found["gates"]]
    assert outcomes[0] == "skipped"
    last = len(GATES) if failed is None else [*GATES].index(failed)
    assert set(outcomes[1:last]) <= {"passed"}
    assert set(outcomes[last + 1 :]) <= {"not_reached"}
    if failed is not None:
        assert outcomes[last] == "failed"
        assert detail in found["gates"][last]["detail"]


@pytest.mark.parametrize(
    "claimed",
    [
        {"accuracy": {"value": 1.0, "low": 1.0, "high": 1.0, "n": 9}},
        {"latency_ms": {"p50": 0.001}},
        {"profile": {}},
        {"profiles": []},
        {"evaluation": {}},
        {"min_agreement": 2},
        {"min_agreement": -1},
        {"min_agreement": "much"},
        {"plan": {"criteria": {"min_agreement": 2}}},
    ],
    ids=str,
)
def test_nothing_is_taken_on_a_registrants_word(
    client: httpx.Client, claimed: dict[str, Any]
) -> None:
    body = {"name": "claims", "artifact": {"digest": "0" * 64}, **claimed}
    answer = client.post(VARIANTS, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), answer.text
    assert client.get(f"{VARIANTS}/claims").status_code == 404


def test_a_number_that_is_none_is_no_agreement(client: httpx.Client) -> None:
    for number in ("NaN", "Infinity", "-Infinity", "1e999"):
        body = f'{{"name": "n", "artifact": {{"digest": "{"0" * 64}"}}, "min_agreement": {number}}}'
        answer = client.post(VARIANTS, content=body, headers={"content-type": "application/json"})
        assert answer.status_code in {400, 422}, (number, answer.text)


def test_bounds_are_held_by_what_was_measured_whatever_a_recipe_claims(
    client: httpx.Client, tmp_path: Path
) -> None:
    claimed = {"accuracy": 1.0, "latency_ms": 0.000001, "cost": 0}
    new = like_the_reference(tmp_path / "claims.onnx", 0.04)
    recipe = [{"technique": "miracle", "config": claimed}]
    detail = register(client, "claiming", new, recipe=recipe)
    assert detail["recipe"] == recipe and 0.5 < detail["accuracy"]["value"] < 1.0
    ask = {"model": MODEL, "inputs": [1.0, 2.0, 3.0, 4.0]}
    only = {"infer-variants": '"claiming"'}
    assert client.post("/infer", json=ask, headers=only).status_code == 200
    strict = client.post("/infer", json=ask, headers={**only, "infer-min-accuracy": "0.999"})
    assert (strict.status_code, strict.json()["code"]) == (422, "constraints-infeasible")


def test_a_dry_run_refuses_a_taken_name_and_other_words(client: httpx.Client) -> None:
    body = {
        "name": "fp32",
        "artifact": {"digest": client.get(f"{VARIANTS}/fp32").json()["artifact_digest"]},
    }
    assert client.post(VARIANTS, params={"validate": "only"}, json=body).status_code == 409
    assert client.post(VARIANTS, params={"validate": "never"}, json=body).status_code == 422


def test_a_registration_is_followed_by_events_to_its_end(
    client: httpx.Client, tmp_path: Path
) -> None:
    digest = upload(client, like_the_reference(tmp_path / "new.onnx", 0.01).read_bytes())
    body = {"name": "followed", "artifact": {"digest": digest}}
    assert client.post(VARIANTS, json=body).status_code == 202
    with client.stream("GET", f"{VARIANTS}/followed/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        text = stream.read().decode()
    events = [block.split("\n") for block in text.strip().split("\n\n")]
    assert {event for event, _ in events} == {"event: state"}
    told = [json.loads(data.removeprefix("data: ")) for _, data in events]
    assert told[-1]["state"] == "active"
    shares = [one["share"] for one in told if one["share"] is not None]
    assert len(shares) > 1 and shares == sorted(shares)
    assert "measuring" in {one["doing"] for one in told}
    with client.stream("GET", f"{VARIANTS}/followed/events") as stream:
        assert stream.read().count(b"event: state") == 1
    assert client.get(f"{VARIANTS}/nothing/events").status_code == 404


def test_what_becomes_of_it_is_said_at_once(client: httpx.Client, tmp_path: Path) -> None:
    new = like_the_reference(tmp_path / "new.onnx", 0.02)
    plan = {"share": {"ratio": 0.25}, "criteria": {"promote": False, "min_agreement": None}}
    canary = register(client, "tried", new, then="canary", plan=plan)
    assert canary["state"] == "canary"
    assert canary["history"][-1]["evidence"]["plan"]["share"]["ratio"] == 0.25
    second = register(client, "second", new, then="shadow")
    assert second["state"] == "inactive"
    assert "not tried: 'tried' is the canary of 'tiny'" in second["reason"]
    shadow = client.post(f"{VARIANTS}/tried/shadow", json=plan).json()
    assert shadow["state"] == "shadow"
    more = client.post(f"{VARIANTS}/tried/shadow", json={"share": {"ratio": 0.5}}).json()
    assert (more["state"], more["history"][-1]["action"]) == ("shadow", "variant.plan")
    assert client.post(f"{VARIANTS}/tried/activate").json()["state"] == "active"


def test_a_plan_that_makes_no_sense_is_refused(client: httpx.Client) -> None:
    for plan in ({"share": {"ratio": 2}}, {"share": {"percent": 5}}, {"criteria": {"promote": 1}}):
        answer = client.post(f"{VARIANTS}/near/canary", json=plan)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


def test_the_example_of_the_documentation_works(client: httpx.Client, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "life-cycle.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    like_the_reference(tmp_path / "new.onnx", 0.03)
    script = script.replace("http://127.0.0.1:8080", str(client.base_url).rstrip("/"))
    key = client.headers["authorization"].removeprefix("Bearer ")
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={**os.environ, "KEY": key, "MODEL": MODEL, "no_proxy": "*"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    states = [
        entry["new_state"] for entry in client.get(f"{VARIANTS}/new/history").json()["history"]
    ]
    assert states[-3:] == ["shadow", "canary", "inactive"]


# Signatures


def make_key(folder: Path, name: str) -> tuple[Path, Path]:
    """A private and a public key of an elliptic curve."""
    ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
    from cryptography.hazmat.primitives import serialization

    secret = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        secret.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def sign(path: Path, private: Path) -> dict[str, Any]:
    signing = pytest.importorskip("model_signing").signing
    target = path.with_suffix(".sig")
    signing.Config().use_elliptic_key_signer(private_key=private).sign(path, target)
    found: dict[str, Any] = json.loads(target.read_text())
    return found


@pytest.mark.option("signing_key")
def test_where_signatures_are_asked_for_only_signed_artifacts_are_taken(tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    key = make_data(tmp_path)
    private, public = make_key(tmp_path, "ours")
    theirs, _ = make_key(tmp_path, "theirs")
    new = like_the_reference(tmp_path / "new.onnx", 0.01)
    changed = like_the_reference(tmp_path / "changed.onnx", 0.02)
    good = sign(new, private)
    env = {**ENV, "GEARSHIFT_SIGNING_KEY": str(public)}
    with (
        world.gateway(tmp_path / "data", key, env=env) as gateway,
        gateway.client() as client,
    ):

        def refused(path: Path, signature: object) -> str:
            artifact = {"digest": upload(client, path.read_bytes())}
            body: dict[str, Any] = {"name": "new", "artifact": artifact}
            if signature is not None:
                body["signature"] = signature
            answer = client.post(VARIANTS, json=body)
            assert answer.status_code == 403, answer.text
            assert str(tmp_path) not in answer.text
            assert client.get(f"{VARIANTS}/new").status_code == 404
            dry = client.post(VARIANTS, params={"validate": "only"}, json=body).json()
            assert [g["gate"] for g in dry["gates"] if g["outcome"] == "failed"] == ["signing"]
            return str(answer.json()["code"])

        assert refused(new, None) == "signature-required"
        assert refused(new, sign(new, theirs)) == "signature-invalid"
        assert refused(changed, good) == "signature-invalid"
        assert refused(new, {}) == "signature-invalid"
        assert refused(new, {**good, "dsseEnvelope": {"payload": "", "signatures": []}}) == (
            "signature-invalid"
        )
        client.timeout = httpx.Timeout(120)
        detail = register(client, "new", new, signature=good)
        assert (detail["state"], gates_of(detail)["signing"]["outcome"]) == ("active", "passed")
    counts = {"refused": 5, "let in": 0, "of their own key taken": 1}
    drilled("U17", "unsigned, another key, another file, no signature at all, a torn one", counts)


def test_the_references_scores_do_not_outlive_a_gateway_that_was_killed(tmp_path: Path) -> None:
    key = make_data(tmp_path)
    root = tmp_path / "data"
    aside = root / "incoming"
    artifact = like_the_reference(tmp_path / "next.onnx", noise=0.001)
    with world.gateway(root, key, env=ENV) as gateway, gateway.client() as client:
        client.timeout = httpx.Timeout(120)
        body = {"name": "next", "artifact": {"digest": upload(client, artifact.read_bytes())}}
        said = client.post(VARIANTS, params={"validate": "only"}, json=body)
        assert said.json()["passed"], said.text
        (scores,) = aside.iterdir()
        with open_data_folder(root) as data:
            data.store.sweep()
        assert scores.exists(), "another process leaves it alone"
        gateway.process.kill()
        gateway.process.wait()
    assert scores.exists()
    with world.gateway(root, key, env=ENV):
        assert list(aside.iterdir()) == []
