"""Files made by an adversary, over the real gateway: none runs, none is routable, all go on."""

import os
import re
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from tests import ladder as ladders
from tests import models, world
from tests.faults.table import drilled
from tests.ladder import MODEL, Ladder
from tests.variants.malicious import ARTIFACTS, SOUND, Malice
from variants import evaluation
from variants.artifact import REJECTIONS, check_format, check_onnx
from variants.errors import ArtifactRejected, Invalid

EVERY = os.environ.get("GEARSHIFT_TEST_MALICE") == "every"
MUTATIONS = int(os.environ.get("GEARSHIFT_TEST_MUTATIONS", "300"))
VARIANTS = f"/v1/models/{MODEL}/variants"
OFTEN = ("cycle.onnx", "crash.onnx", "hang.onnx")
"""Of those that need a process of their own; the long form tries them all."""

ENV = {
    **ladders.ENV,
    "GEARSHIFT_TRIAL_TIMEOUT_S": "8" if EVERY else "3",
    "GEARSHIFT_TRIAL_MEMORY_BYTES": str(4 << 30),
}
FORMATS = [malice for malice in ARTIFACTS if malice.stage == "format"]
CHOSEN = (
    list(ARTIFACTS)
    if EVERY
    else [*FORMATS[::3], *(malice for malice in ARTIFACTS if malice.name in OFTEN)]
)


def refused(client: httpx.Client, name: str, malice: Malice, canary: Path) -> str:
    """Upload and register a file, and return how it was refused, once all is checked."""
    content = malice.content(canary)
    digest = world.upload_bytes(client, content)
    body = {"name": name, "artifact": {"digest": digest}}
    answer = client.post(VARIANTS, json=body, headers={"Prefer": "wait=60"})
    shown = answer.json()
    if malice.stage == "format":
        assert answer.status_code in (415, 422), answer.text
        assert re.search(malice.words, shown["detail"]), shown
        assert client.get(f"{VARIANTS}/{name}").status_code == 404
    else:
        assert (answer.status_code, shown["state"]) == (201, "failed"), answer.text
        assert re.search(malice.words, shown["reason"]), shown["reason"]
        assert client.post(f"{VARIANTS}/{name}/activate").status_code == 409
    routed = {"model": MODEL, "inputs": [1.0, 2.0, 3.0, 4.0]}
    pinned = client.post("/infer", json=routed, headers={"Infer-Variants": f'"{name}"'})
    assert pinned.status_code in (404, 409), pinned.text
    assert client.post("/infer", json=routed).status_code == 200
    assert not canary.exists(), f"{malice.name} ran"
    return malice.stage


@pytest.mark.option("trial_timeout_s", "trial_memory_bytes")
def test_no_malicious_file_runs_or_is_ever_routable(ladder: Ladder, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    counts: Counter[str] = Counter()
    started = time.monotonic()
    with (
        world.gateway(ladder.root, ladder.key, env=ENV) as gateway,
        gateway.client() as client,
    ):
        client.timeout = httpx.Timeout(90)
        for number, malice in enumerate(CHOSEN):
            counts[refused(client, f"bad-{number}", malice, canary)] += 1
        active = client.get(f"/v1/models/{MODEL}").json()["active"]
        assert sorted(active) == ["best", "fast", "glacial", "mid"]
        assert len(gateway.workers()) == 1
    log = "".join(gateway.log)
    assert "Traceback" not in log
    assert "worker_lost" not in log
    for stage in ("format", "structure", "trial"):
        assert counts[stage] > 0
    drilled(
        "U1",
        "malicious artifacts registered over the API",
        {
            "files": len(CHOSEN),
            **{f"refused by {stage}": count for stage, count in counts.items()},
            "ran": 0,
            "routable": 0,
            "seconds": round(time.monotonic() - started, 1),
        },
    )


@pytest.mark.parametrize("kind", ["ONNX", "safetensors"])
def test_damaged_files_are_accepted_or_refused_and_nothing_else(kind: str, tmp_path: Path) -> None:
    sound = SOUND if kind == "ONNX" else evaluation.dumps(models.tiny_evaluation(8))
    path = tmp_path / "damaged"
    counts: Counter[str] = Counter()

    @seed(1)
    @settings(max_examples=MUTATIONS, deadline=None, database=None)
    @given(st.data())
    def damage(data: st.DataObject) -> None:
        content = bytearray(sound)
        for _ in range(data.draw(st.integers(1, 8))):
            at = data.draw(st.integers(0, len(content) - 1))
            match data.draw(st.sampled_from(["flip", "cut", "insert", "repeat"])):
                case "flip":
                    content[at] ^= data.draw(st.integers(1, 255))
                case "cut":
                    del content[at : at + data.draw(st.integers(1, max(1, len(content) - 1)))]
                    content = content or bytearray(b"x")
                case "insert":
                    content[at:at] = data.draw(st.binary(min_size=1, max_size=16))
                case "repeat":
                    content += content[at:][:4096]
        path.write_bytes(content)
        counts["tried"] += 1
        try:
            if kind == "ONNX":
                check_format(path)
                check_onnx(path)
            else:
                evaluation.load(path)
            counts["taken"] += 1
        except ArtifactRejected as error:
            assert error.code in REJECTIONS
            counts["refused"] += 1
        except Invalid:
            counts["refused"] += 1

    damage()
    assert counts["tried"] >= MUTATIONS
    drilled("U7" if kind != "ONNX" else "U8", f"damaged {kind} files", dict(counts))
