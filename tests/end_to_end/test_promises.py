"""A variant that does not keep what was measured of it is seen, and goes where others can serve."""

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import numpy_helper

from tests import ladder as ladders
from tests import models, world
from tests.ladder import ENV
from variants.data_folder import open_data_folder
from variants.evidence import Agreement, Evaluation, Interval, WorstClass
from variants.profile import Accuracy

LATE: dict[str, Any] = {"service_s": 0.02, "promised_s": 0.004}
HONEST: dict[str, Any] = {"service_s": 0.004}
AGREES = Evaluation(
    calibration_error=0.0,
    worst_class=WorstClass(label="setosa", accuracy=Accuracy.of(9, 10)),
    agreement=Agreement(
        reference="old",
        n=400,
        flips=Interval(value=0.02, low=0.01, high=0.05),
        right_to_wrong=4,
        wrong_to_right=4,
        difference=Interval(value=0.0, low=-0.02, high=0.02),
        mcnemar_p=1.0,
    ),
)
"""What a build would say of a variant with the reference's answer on at least 95 % of all rows."""

MANY = {
    "old": HONEST,
    "late": LATE,
    "odd": {**HONEST, "scale": 3.0, "evaluation": AGREES},
    "even": {**HONEST, "evaluation": AGREES},
}


@pytest.mark.option("demote")
@pytest.mark.option("audit_ratio")
def test_a_variant_that_breaks_its_promise_goes_unless_it_is_needed(tmp_path: Path) -> None:
    with open_data_folder(tmp_path / "data") as data:
        for model, variants in (("many", MANY), ("lone", {"late": LATE})):
            spec = replace(models.tiny_spec(model), task="tensors", labels=())
            data.registry.put_model(spec, None, actor="test")
            for name, plan in variants.items():
                ladders.publish_fake(data, name, model=model, **plan)
            data.registry.set_reference(model, next(iter(variants)), actor="test")
        key = world.make_key(data)
    env = {**ENV, "GEARSHIFT_DEMOTE": "demote", "GEARSHIFT_AUDIT_RATIO": "1"}
    with (
        world.gateway(tmp_path / "data", key, env=env) as gateway,
        gateway.client() as client,
    ):

        def ask(model: str, variant: str) -> int:
            return client.post(
                "/infer",
                json={"model": model, "inputs": [1.0, 2.0, 3.0, 4.0]},
                headers={"infer-variants": variant},
            ).status_code

        def detail(model: str, variant: str) -> dict[str, Any]:
            found: dict[str, Any] = client.get(f"/v1/models/{model}/variants/{variant}").json()
            return found

        end = time.monotonic() + 30
        going = {"late", "odd"}
        while going:
            assert time.monotonic() < end, [detail("many", name)["promise"] for name in going]
            for name in ("old", "even"):
                assert ask("many", name) == 200
            for name in going:
                assert ask("many", name) in (200, 409)
            assert ask("lone", "late") == 200
            going = {name for name in going if detail("many", name)["state"] != "inactive"}
        for name, why in (
            ("late", "later than the profile"),
            ("odd", "had the reference's answer"),
        ):
            move = detail("many", name)["history"][-2]
            assert move["reason"].startswith("demoted: of ") and why in move["reason"]
            assert move["actor"] == "gateway"
        assert move["evidence"]["agreed"]["high"] < move["evidence"]["promised_agreement"] == 0.95
        even = detail("many", "even")
        assert even["state"] == "active" and even["promise"]["rows"] > 0
        assert even["promise"]["agreed"]["value"] == 1.0 and not even["promise"]["own_doing"]
        lone, old = detail("lone", "late"), detail("many", "old")
        assert lone["state"] == "active" and lone["promise"]["broken"] is True
        assert old["state"] == "active" and old["promise"]["own_doing"] is False
        metrics = client.get("/metrics").text
        assert 'gearshift_variant_promise_broken{model="lone",variant="late"} 1.0' in metrics
        assert ask("lone", "late") == 200


def test_what_the_gate_measured_at_registration_is_a_promise_too(tmp_path: Path) -> None:
    """A file that answers as the reference does on the evaluation rows, and not on these."""
    weight, bias = models.weights(0)
    rng = np.random.default_rng(1)
    other = weight + np.float32(0.05) * rng.normal(size=weight.shape).astype("f4")
    x = rng.normal(size=(4000, 4)).astype("f4")
    differs = (x @ weight + bias).argmax(axis=1) != (x @ other + bias).argmax(axis=1)
    built = models.linear(0)
    built.graph.initializer[0].CopyFrom(numpy_helper.from_array(other, "weight"))
    content = models.save(built, tmp_path / "new.onnx").read_bytes()
    with open_data_folder(tmp_path / "data") as data:
        paths = {"fp32": models.tiny_onnx(tmp_path / "fp32.onnx")}
        world.publish(data, models.tiny_spec(), models.tiny_evaluation(200, wrong=20), paths)
        key = world.make_key(data)
    env = {"GEARSHIFT_PROFILE_S": "0.01", "GEARSHIFT_AUDIT_RATIO": "1"}
    with (
        world.gateway(tmp_path / "data", key, env=env) as gateway,
        gateway.client() as client,
    ):
        client.timeout = httpx.Timeout(60)
        digest = hashlib.sha256(content).hexdigest()
        client.put(f"/v1/blobs/{digest}", content=content).raise_for_status()
        body = {"name": "new", "artifact": {"digest": digest}}
        registered = client.post(
            "/v1/models/tiny/variants", json=body, headers={"prefer": "wait=60"}
        )
        assert registered.json()["state"] == "active", registered.text
        end, settled = time.monotonic() + 30, False
        while not settled:
            for row in x[differs][:20]:
                ask = {"model": "tiny", "inputs": row.tolist()}
                answer = client.post("/infer", json=ask, headers={"infer-variants": '"new"'})
                assert answer.status_code == 200, answer.text
            promise = client.get("/v1/models/tiny/variants/new").json()["promise"]
            agreed, promised = promise["agreed"], promise["promised_agreement"]
            settled = None not in (agreed, promised) and agreed["high"] < promised
            assert time.monotonic() < end, promise
        assert 0.8 < promised < 1.0 and promise["broken"] and promise["own_doing"]
        metric = 'variant_promise_broken{model="tiny",variant="new"} 1.0'
        while metric not in client.get("/metrics").text:
            assert time.monotonic() < end
            time.sleep(0.05)
