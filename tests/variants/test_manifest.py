"""The manifest: its one serialised form, its identity, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from variants import manifest as manifests
from variants.errors import Invalid
from variants.evidence import (
    Agreement,
    Alike,
    Cascade,
    Drift,
    Evaluation,
    Interval,
    LayerSensitivity,
    WorstClass,
)
from variants.manifest import Artifact, Manifest, Step
from variants.profile import Accuracy, Profile, Quantiles

GOLDEN = Path(__file__).parent / "manifest.golden.json"
ARTIFACT = Artifact(digest="a" * 64, size_bytes=1234, format="onnx")
RECIPE = (
    Step(technique="distilled", config={"temperature": 4.0, "epochs": 6}),
    Step(technique="int8", config={"per_channel": True, "calibration_rows": 512}),
)
TOOLS = {"torch": "2.13.0", "onnxruntime": "1.32.0"}
PROFILE = Profile(
    runtime="onnxruntime",
    runtime_version="1.32.0",
    device="cpu",
    host="Example CPU; 2 cores; x86_64",
    threads=1,
    latency_s={
        1: Quantiles(p50=0.001, p95=0.0015, p99=0.002),
        32: Quantiles(p50=0.02, p95=0.03, p99=0.04),
    },
    throughput_per_s=1600.0,
    memory_bytes=12_582_912,
    load_s=0.05,
    measured_at="2026-01-02T03:04:05+00:00",
)
MANIFEST = Manifest(
    id=manifests.manifest_id(
        model="fashion",
        variant="distilled-int8",
        parent="b" * 64,
        recipe=RECIPE,
        tools=TOOLS,
        artifact=ARTIFACT,
    ),
    model="fashion",
    variant="distilled-int8",
    parent="b" * 64,
    recipe=RECIPE,
    tools=TOOLS,
    artifact=ARTIFACT,
    runtime="onnxruntime",
    accuracy=Accuracy.of(9100, 10_000),
    profiles=(PROFILE,),
    build_key="c" * 64,
    build_s=12.5,
    created_at="2026-01-02T03:04:05+00:00",
    evaluation=Evaluation(
        calibration_error=0.03,
        worst_class=WorstClass(label="shirt", accuracy=Accuracy.of(730, 1000)),
        agreement=Agreement(
            reference="fp32",
            n=10_000,
            flips=Interval(value=0.05, low=0.046, high=0.055),
            right_to_wrong=210,
            wrong_to_right=190,
            difference=Interval(value=-0.002, low=-0.006, high=0.002),
            mcnemar_p=0.34,
        ),
        drift=Drift(rows=256, max_abs_difference=1e-5, same_answer_ratio=1.0, limit=0.5),
    ),
    sensitivity=(LayerSensitivity(layer="conv1", metric="relative_output_error", value=0.01),),
    cascades=(
        Cascade(
            first="distilled-int8",
            then="fp32",
            threshold=0.9,
            max_drop_points=0.5,
            n=5000,
            escalation=Interval(value=0.2, low=0.19, high=0.21),
            accuracy=Interval(value=0.92, low=0.91, high=0.93),
            latency_s=0.0008,
        ),
    ),
    alike=Alike(reference="fp32", n=400, share=Interval(value=0.98, low=0.961, high=0.99)),
)


def changed(**fields: object) -> bytes:
    data = json.loads(manifests.dumps(MANIFEST))
    return json.dumps({**data, **fields}).encode()


def test_serialised_form_equals_the_golden_file() -> None:
    assert manifests.dumps(MANIFEST).decode() == GOLDEN.read_text(encoding="utf-8")


def test_golden_file_reads_back_as_the_same_manifest() -> None:
    assert manifests.loads(GOLDEN.read_bytes()) == MANIFEST


def test_a_manifest_from_before_there_were_evaluations_still_loads() -> None:
    data = json.loads(GOLDEN.read_bytes())
    for later in ("evaluation", "sensitivity", "cascades", "alike"):
        del data[later]
    old = manifests.loads(json.dumps(data).encode())
    assert old == replace(MANIFEST, evaluation=None, sensitivity=(), cascades=(), alike=None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)
configs = st.dictionaries(st.text(max_size=8), json_values, max_size=3)
seconds = st.floats(0, 1e6)


@given(configs, st.lists(seconds, min_size=3, max_size=3), st.integers(1, 10**7))
def test_every_manifest_survives_a_round_trip(
    config: dict[str, Any], latency: list[float], n: int
) -> None:
    p50, p95, p99 = latency
    manifest = Manifest(
        id="d" * 64,
        model="m",
        variant="v",
        parent=None,
        recipe=(Step(technique="int8", config=config),),
        tools={},
        artifact=ARTIFACT,
        runtime="onnxruntime",
        accuracy=Accuracy.of(n // 2, n),
        profiles=(
            Profile(
                runtime="openvino",
                runtime_version="1",
                device="cpu",
                host="h",
                threads=1,
                latency_s={1: Quantiles(p50=p50, p95=p95, p99=p99)},
                throughput_per_s=1.0,
                memory_bytes=0,
                load_s=0.0,
                measured_at="now",
            ),
        ),
        build_key=None,
        created_at="now",
    )
    assert manifests.loads(manifests.dumps(manifest)) == manifest


def test_identity_covers_names_parent_recipe_tools_and_artifact() -> None:
    facts: dict[str, Any] = {
        "model": "fashion",
        "variant": "int8",
        "parent": "b" * 64,
        "recipe": RECIPE,
        "tools": TOOLS,
        "artifact": ARTIFACT,
    }
    other_artifact = Artifact(digest="e" * 64, size_bytes=1234, format="onnx")
    ids = {
        manifests.manifest_id(**facts),
        manifests.manifest_id(**{**facts, "model": "digits"}),
        manifests.manifest_id(**{**facts, "variant": "int8-again"}),
        manifests.manifest_id(**{**facts, "parent": None}),
        manifests.manifest_id(**{**facts, "recipe": RECIPE[::-1]}),
        manifests.manifest_id(**{**facts, "tools": {**TOOLS, "torch": "2.13.1"}}),
        manifests.manifest_id(**{**facts, "artifact": other_artifact}),
    }
    assert len(ids) == 7


@given(configs)
def test_identity_does_not_depend_on_the_order_of_keys(config: dict[str, Any]) -> None:
    backwards = dict(reversed(config.items()))
    assert manifests.digest_json(config) == manifests.digest_json(backwards)


def test_technique_is_the_chain_in_one_word_and_uploaded_without_one() -> None:
    assert MANIFEST.technique == "distilled+int8"
    assert manifests.loads(changed(recipe=[])).technique == "uploaded"


def test_profile_is_that_of_the_chosen_runtime_or_none() -> None:
    assert MANIFEST.profile == PROFILE
    assert manifests.loads(changed(runtime="openvino")).profile is None


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"id": "A" * 64}, "id"),
        ({"model": "../up"}, "model"),
        ({"variant": "<b>"}, "variant"),
        ({"artifact": {"digest": "a" * 64, "size_bytes": 1, "format": "pickle"}}, "format"),
        ({"artifact": {"digest": "a" * 64, "size_bytes": 0, "format": "onnx"}}, "size_bytes"),
        ({"accuracy": {"value": "good", "n": 1, "low": 0, "high": 1}}, "accuracy"),
        ({"loader": "os.system"}, "loader"),
    ],
)
def test_a_wrong_field_is_refused_by_name(fields: dict[str, object], field: str) -> None:
    with pytest.raises(Invalid, match=field) as refusal:
        manifests.loads(changed(**fields))
    assert refusal.value.field is not None
    assert field in refusal.value.field


@given(st.binary(max_size=64))
def test_bytes_that_are_no_manifest_are_invalid_and_nothing_else(data: bytes) -> None:
    with pytest.raises(Invalid):
        manifests.loads(data)
