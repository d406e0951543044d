"""A variant that runs slower than its profile promised is seen, and goes where others can serve."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import ladder as ladders
from tests import models, world
from tests.ladder import ENV
from variants.data_folder import open_data_folder

LATE: dict[str, Any] = {"service_s": 0.02, "promised_s": 0.004}
HONEST = {"service_s": 0.004}


@pytest.mark.option("demote")
def test_a_variant_that_breaks_its_promise_goes_unless_it_is_needed(tmp_path: Path) -> None:
    with open_data_folder(tmp_path / "data") as data:
        for model, variants in (("many", {"old": HONEST, "late": LATE}), ("lone", {"late": LATE})):
            spec = replace(models.tiny_spec(model), task="tensors", labels=())
            data.registry.put_model(spec, None, actor="test")
            for name, plan in variants.items():
                ladders.publish_fake(data, name, model=model, **plan)
            data.registry.set_reference(model, next(iter(variants)), actor="test")
        key = world.make_key(data)
    env = {**ENV, "GEARSHIFT_DEMOTE": "demote"}
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
        while (found := detail("many", "late"))["state"] != "inactive":
            assert time.monotonic() < end, found["promise"]
            assert ask("many", "old") == 200
            assert ask("many", "late") in (200, 409)
            assert ask("lone", "late") == 200
        move = found["history"][-2]
        assert move["reason"].startswith("demoted: of ") and move["actor"] == "gateway"
        assert move["evidence"]["late"]["low"] > 0.05 and move["evidence"]["beyond"]["low"] > 0.05
        lone, old = detail("lone", "late"), detail("many", "old")
        assert lone["state"] == "active" and lone["promise"]["broken"] is True
        assert old["state"] == "active" and old["promise"]["own_doing"] is False
        metrics = client.get("/metrics").text
        assert 'gearshift_variant_promise_broken{model="lone",variant="late"} 1.0' in metrics
        assert ask("lone", "late") == 200
