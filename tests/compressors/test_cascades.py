"""A cascade keeps what it promises on rows that it was not calibrated on, and pays."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from compressors import cascades
from compressors.cascades import STEPS, all_pairs, calibrate, threshold
from compressors.records import Records
from compressors.scores import Scores
from tests.variants.test_manifest import MANIFEST, PROFILE
from variants.data_folder import DataFolder
from variants.lifecycle import State
from variants.manifest import Manifest, digest_json
from variants.profile import Quantiles
from variants.spec import ModelSpec

CLASSES = 5
STATES: tuple[State, ...] = ("verified", "profiled", "active")


def drawn(random: np.random.Generator, n: int, *noises: float) -> list[Scores]:
    """Variants that see the same rows through more or less noise; fewer mistakes with less."""
    labels = random.integers(0, CLASSES, n)
    signal = 3.0 * np.eye(CLASSES)[labels] + random.normal(scale=0.8, size=(n, CLASSES))
    return [
        Scores(
            values=(signal + random.normal(scale=noise, size=(n, CLASSES))).astype(np.float32),
            labels=labels,
        )
        for noise in noises
    ]


def lost(first: Scores, then: Scores, limits: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the cascade's accuracy is below that of `then` for each limit, from −1 to 1."""
    order = np.argsort(first.confidence)
    losses = (then.right.astype(float) - first.right)[order]
    beyond = np.append(losses[::-1].cumsum()[::-1], 0.0) / len(losses)
    return np.asarray(beyond[np.searchsorted(first.confidence[order], limits)])


def variant(name: str, p50: float) -> Manifest:
    profile = replace(PROFILE, latency_s={1: Quantiles(p50=p50, p95=p50, p99=p50)})
    return replace(MANIFEST, variant=name, profiles=(profile,), cascades=())


def test_the_promise_holds_on_fresh_rows_at_least_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    fresh = drawn(random, 100_000, 1.2, 0.2)
    limits = [threshold(*drawn(random, 2000, 1.2, 0.2), 0.01) for _ in range(100)]
    found = np.array([limit for limit in limits if limit is not None])
    assert len(found) > 95, "it is not bought by giving up"
    assert (
        np.mean(lost(*fresh, found) <= 0.01) >= cascades.TRUST - 0.04
    )  # two standard errors of 100 trials


def test_taking_the_value_alone_would_break_the_promise_often() -> None:
    """What the bound is for: the lowest threshold that looks good on few rows is tuning luck."""
    random = np.random.default_rng(1)
    fresh = drawn(random, 100_000, 1.2, 0.2)
    lucky = []
    for _ in range(100):
        first, then = drawn(random, 2000, 1.2, 0.2)
        limits = np.quantile(first.confidence, np.arange(1, STEPS) / STEPS)
        lucky.append(limits[lost(first, then, limits) <= 0.01].min())
    assert np.mean(lost(*fresh, np.array(lucky)) > 0.01) > 0.25


def test_a_cascade_between_a_quick_and_a_good_variant_pays() -> None:
    quick, good = drawn(np.random.default_rng(3), 5000, 1.2, 0.2)
    found = calibrate(
        variant("quick", 0.001), variant("good", 0.01), {"quick": quick, "good": good}, 0.5
    )
    assert found is not None
    assert (found.first, found.then, found.n) == ("quick", "good", 5000)
    share = float((quick.confidence < found.threshold).mean())
    assert found.escalation.value == share and 0 < share < 0.9
    assert found.escalation.low < share < found.escalation.high
    assert found.latency_s == pytest.approx(0.001 + share * 0.01) and found.latency_s < 0.01
    assert found.accuracy.value >= good.right.mean() - 0.005
    assert found.accuracy.value > quick.right.mean()


def test_a_looser_promise_escalates_less() -> None:
    quick, good = drawn(np.random.default_rng(3), 5000, 1.2, 0.2)
    strict, loose = threshold(quick, good, 0.005), threshold(quick, good, 0.02)
    assert strict is not None and loose is not None and loose < strict


def test_too_few_rows_promise_nothing() -> None:
    assert threshold(*drawn(np.random.default_rng(4), 40, 1.2, 0.2), 0.005) is None


@pytest.mark.parametrize("good_s", [0.0009, 0.00101])
def test_pairs_that_do_not_pay_are_left_out(good_s: float) -> None:
    quick, good = drawn(np.random.default_rng(3), 5000, 1.2, 0.2)
    scores = {"quick": quick, "good": good}
    assert calibrate(variant("quick", 0.001), variant("good", good_s), scores, 0.5) is None


def test_another_host_or_other_rows_give_no_cascade() -> None:
    quick, good = drawn(np.random.default_rng(3), 5000, 1.2, 0.2)
    first, then = variant("quick", 0.001), variant("good", 0.01)
    elsewhere = replace(then, profiles=(replace(then.profiles[0], host="another"),))
    assert calibrate(first, elsewhere, {"quick": quick, "good": good}, 0.5) is None
    (other,) = drawn(np.random.default_rng(5), 5000, 0.2)
    assert calibrate(first, then, {"quick": quick, "good": other}, 0.5) is None


def test_each_ordered_pair_stands_with_its_cheaper_variant() -> None:
    random = np.random.default_rng(6)
    scores = dict(zip(("a", "b", "c"), drawn(random, 5000, 1.5, 0.9, 0.2), strict=True))
    manifests = [variant("a", 0.001), variant("b", 0.004), variant("c", 0.05)]
    pairs = all_pairs(manifests, scores, 1.0)
    assert {first: {c.then for c in found} for first, found in pairs.items()} == {
        "a": {"b", "c"},
        "b": {"c"},
        "c": set(),
    }
    assert all(c.first == first for first, found in pairs.items() for c in found)


def test_cascades_are_renewed_in_the_manifests_of_active_variants(
    data_folder: DataFolder, tiny_spec: ModelSpec, tiny_onnx: Path
) -> None:
    records = Records(data_folder.root)
    artifact = data_folder.store.put_file(tiny_onnx)
    data_folder.registry.put_model(tiny_spec, None, actor="test")
    random = np.random.default_rng(6)
    for (name, p50), scores in zip(
        {"a": 0.001, "b": 0.004, "retired": 0.006, "c": 0.05}.items(),
        drawn(random, 5000, 1.5, 0.9, 0.4, 0.2),
        strict=True,
    ):
        manifest = replace(
            variant(name, p50),
            id=digest_json(name),
            build_key=digest_json(["key", name]),
            model=tiny_spec.name,
            artifact=artifact,
        )
        assert manifest.build_key is not None
        records.put_scores(manifest.build_key, {"selection": scores})
        data_folder.store.put_manifest(manifest)
        data_folder.registry.add_variant(
            model=tiny_spec.name,
            name=name,
            artifact_digest=artifact.digest,
            actor="test",
            reason="test",
        )
        for state in ("verified", "profiled") if name == "retired" else STATES:
            data_folder.registry.move(
                tiny_spec.name, name, state, actor="test", reason="test", manifest_id=manifest.id
            )
    renewed = cascades.renew(data_folder, records, tiny_spec.name, 1.0)
    found = {name: {c.then for c in manifest.cascades} for name, manifest in renewed.items()}
    assert found == {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert data_folder.store.manifest(digest_json("a")) == renewed["a"]
    marks = data_folder.registry.marks()
    cascades.renew(data_folder, records, tiny_spec.name, 1.0)
    assert data_folder.registry.marks() == marks
    cascades.renew(data_folder, records, tiny_spec.name, 1e-9)
    assert data_folder.registry.marks() != marks
    assert data_folder.store.manifest(digest_json("a")).cascades == ()
