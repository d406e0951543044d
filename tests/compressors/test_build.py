"""A build publishes what it can, says why where it cannot, and does nothing twice."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compressors import plan as plans
from compressors import techniques
from compressors.build import build
from compressors.build_key import build_key
from compressors.records import Records
from tests.compressors import plans as written
from tests.compressors.conftest import Ladder
from variants.data_folder import DataFolder, open_data_folder
from variants.errors import Conflict, Invalid

FAILING = """\
from dataclasses import dataclass
WORKS_ON = "onnx"
REQUIRES = ()
FAMILY = "precision"

@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    pass

def unsuitable(anatomy, config):
    return ""

def convert(source, target, config, bench):
    raise RuntimeError("this technique always fails")
"""

FP32 = '\n[[recipe]]\nname = "fp32"\n'


@pytest.fixture
def failing_technique(tmp_path: Path) -> Iterator[None]:
    """A technique `failing`, found as if its file lay in the folder."""
    folder = tmp_path / "techniques"
    folder.mkdir()
    (folder / "failing.py").write_text(FAILING, encoding="utf-8")
    techniques.__path__.append(str(folder))
    yield
    techniques.__path__.remove(str(folder))
    sys.modules.pop("compressors.techniques.failing", None)


def test_every_recipe_becomes_an_active_variant(ladder: Ladder) -> None:
    assert {o.status for o in ladder.outcomes.values()} == {"published"}
    registered = {v.name: v for v in ladder.folder.registry.variants("toy")}
    assert set(registered) == set(ladder.outcomes)
    assert {v.state for v in registered.values()} == {"active"}
    assert ladder.folder.registry.model("toy").reference == "fp32"


def test_each_step_of_publishing_is_in_the_history(ladder: Ladder) -> None:
    history = ladder.folder.audit.of("toy", "int8")
    assert [c.new_state for c in history] == ["registered", "verified", "profiled", "active"]
    assert {change.actor for change in history} == {"build"}


def test_a_manifest_tells_how_the_variant_was_made_and_measured(ladder: Ladder) -> None:
    manifest = ladder.outcomes["distilled+int8"].manifest
    parent = ladder.outcomes["distilled"].manifest
    assert manifest is not None and parent is not None
    assert manifest.parent == parent.id
    assert manifest.technique == "distilled+int8"
    assert "onnxruntime" in manifest.tools
    assert manifest.runtime in {profile.runtime for profile in manifest.profiles}
    assert manifest.profile is not None
    assert set(manifest.profile.latency_s) == {1, 2, 4, 8, 16, 32}
    assert ladder.outcomes["distilled+int8"].note == "patterns made from a seed"


def test_a_manifest_tells_how_the_variant_differs_from_the_reference(ladder: Ladder) -> None:
    for name, outcome in ladder.outcomes.items():
        assert outcome.manifest is not None and outcome.manifest.accuracy is not None
        found = outcome.manifest.evaluation
        assert found is not None
        assert 0 <= found.calibration_error < 0.5
        assert found.worst_class.label in "abcd"
        assert found.worst_class.accuracy.value <= outcome.manifest.accuracy.value
        if name == "fp32":
            assert found.agreement is None
            fp32 = outcome.manifest.accuracy
            continue
        pairs = found.agreement
        assert pairs is not None and (pairs.reference, pairs.n) == ("fp32", 400)
        gained = (pairs.wrong_to_right - pairs.right_to_wrong) / 400
        assert pairs.difference.value == pytest.approx(gained)
        assert outcome.manifest.accuracy.value - fp32.value == pytest.approx(gained)


def test_exports_are_held_against_their_modules_and_conversions_are_not(ladder: Ladder) -> None:
    drifts = {
        name: outcome.manifest.evaluation.drift
        for name, outcome in ladder.outcomes.items()
        if outcome.manifest is not None and outcome.manifest.evaluation is not None
    }
    for name in ("fp32", "pruned", "low_rank", "distilled"):
        drift = drifts[name]
        assert drift is not None and drift.limit is not None
        assert drift.max_abs_difference < 1e-3 and drift.same_answer_ratio == 1
    assert drifts["int8"] is drifts["fp16"] is drifts["distilled+int8"] is None


def test_scores_of_each_build_stay_beside_its_record(ladder: Ladder) -> None:
    records = Records(ladder.folder.root)
    for outcome in ladder.outcomes.values():
        manifest = outcome.manifest
        assert manifest is not None and manifest.build_key and manifest.accuracy is not None
        test = records.scores(manifest.build_key, "test")
        selection = records.scores(manifest.build_key, "selection")
        record = records.find(manifest.build_key)
        assert test is not None and selection is not None and record is not None
        assert test.right.mean() == pytest.approx(manifest.accuracy.value)
        assert record.selection is not None
        assert selection.right.mean() == pytest.approx(record.selection.value)


def test_an_export_that_gives_other_answers_fails(tmp_path: Path, data_folder: DataFolder) -> None:
    pytest.importorskip("torch")
    path = written.write(tmp_path, FP32)
    model = tmp_path / "model.py"
    text = model.read_text(encoding="utf-8").replace("nn.Sequential(", "Moody(", 1)
    moody = (
        "class Moody(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        import torch\n"
        "        sign = -1 if torch.compiler.is_exporting() else 1\n"
        "        return sign * super().forward(x)\n\n\n"
    )
    model.write_text(text.replace("def build_model", moody + "def build_model"), "utf-8")
    (outcome,) = build(plans.load(path), data_folder)
    assert outcome.status == "failed"
    assert "drifts from the torch module" in outcome.reason


def test_the_faster_runtime_is_chosen(ladder: Ladder) -> None:
    for outcome in ladder.outcomes.values():
        assert outcome.manifest is not None and outcome.manifest.profile is not None
        fastest = min(p.latency_s[1].p50 for p in outcome.manifest.profiles)
        assert outcome.manifest.profile.latency_s[1].p50 == fastest


def test_a_second_build_skips_everything_and_imports_no_torch(ladder: Ladder) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from compressors import plan; from compressors.build import build\n"
        "from variants.data_folder import open_data_folder\n"
        "with open_data_folder(Path(sys.argv[2])) as folder:\n"
        "    outcomes = build(plan.load(Path(sys.argv[1])), folder)\n"
        "assert 'torch' not in sys.modules\n"
        "print(*sorted({o.status for o in outcomes}), len(outcomes))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ladder.plan.path), str(ladder.folder.root)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "skipped 7\n", done.stderr


def test_a_technique_that_does_not_suit_is_refused_before_any_work(
    ladder: Ladder, tmp_path: Path
) -> None:
    recipe = (
        '[[recipe]]\nname = "low_rank"\nsteps = [{ technique = "low_rank", min_features = 999 }]'
    )
    plan = plans.load(written.write(tmp_path, f"{FP32}\n{recipe}\n"))
    with (
        open_data_folder(tmp_path / "data") as folder,
        pytest.raises(Invalid, match=r"plan.toml:\d+: recipe.1.*'low_rank' does not suit.*128"),
    ):
        build(plan, folder)
    assert not list((tmp_path / "data" / "builds").glob("*.json"))


def test_a_changed_plan_under_a_taken_name_is_refused_before_any_work(ladder: Ladder) -> None:
    text = ladder.plan.path.read_text(encoding="utf-8").replace("ratio = 0.5", "ratio = 0.25")
    changed = ladder.plan.path.with_name("changed.toml")
    changed.write_text(text, encoding="utf-8")
    with pytest.raises(Conflict, match=r"'pruned'.*rename the recipe"):
        build(plans.load(changed), ladder.folder)


def test_a_later_recipe_goes_on_from_stored_weights(ladder: Ladder) -> None:
    more = (
        '\n[[recipe]]\nname = "thin"\nfrom = "low_rank"\n'
        'steps = [{ technique = "pruned", ratio = 0.3, round_to = 4, epochs = 1 }]\n'
    )
    text = ladder.plan.path.read_text(encoding="utf-8")
    extended = ladder.plan.path.with_name("extended.toml")
    extended.write_text(text + more, encoding="utf-8")
    *before, thin = build(plans.load(extended), ladder.folder, only=["thin"])
    assert [outcome.status for outcome in before] == ["skipped", "skipped"]
    assert thin.status == "published", thin.reason
    assert thin.manifest is not None and thin.manifest.accuracy is not None
    assert thin.manifest.technique == "low_rank+pruned"
    assert thin.manifest.accuracy.value > 0.8


def test_the_key_covers_data_recipe_and_seed_but_not_gates(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = written.write(tmp_path, FP32)
    plan = plans.load(path)
    key = build_key(plan, plan.reference, None)
    gated = replace(plan, gates=plans.GatesTable(min_accuracy=0.5))
    assert build_key(gated, plan.reference, None) == key
    assert build_key(replace(plan, seed=4), plan.reference, None) != key
    assert build_key(plan, plan.reference, "0" * 64) != key
    model = tmp_path / "model.py"
    model.write_text(model.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert build_key(plan, plan.reference, None) != key


def test_a_fifth_of_the_rows_chooses_and_the_others_are_reported(
    tmp_path: Path, data_folder: DataFolder
) -> None:
    plan = written.onnx(tmp_path, FP32 + '[[recipe]]\nname = "int8"\n')
    fp32, int8 = build(plan, data_folder)
    assert fp32.status == int8.status == "published", (fp32.reason, int8.reason)
    assert fp32.manifest is not None and fp32.manifest.accuracy is not None
    assert fp32.manifest.accuracy.n == 80
    assert fp32.manifest.build_key is not None
    record = Records(data_folder.root).find(fp32.manifest.build_key)
    assert record is not None and record.selection is not None
    assert record.selection.n == 20


def test_a_failed_recipe_is_listed_and_the_others_go_on(
    tmp_path: Path, data_folder: DataFolder, failing_technique: None
) -> None:
    broken = '[[recipe]]\nname = "broken"\nsteps = [{ technique = "failing" }]\n'
    child = '[[recipe]]\nname = "child"\nfrom = "broken"\nsteps = [{ technique = "fp16" }]\n'
    plan = written.onnx(tmp_path, FP32 + broken + child + '[[recipe]]\nname = "fp16"\n')
    outcomes = {o.variant: o for o in build(plan, data_folder)}
    assert outcomes["broken"].status == "failed"
    assert outcomes["broken"].reason == "RuntimeError: this technique always fails"
    assert outcomes["child"].status == "failed"
    assert "'broken'" in outcomes["child"].reason
    assert outcomes["fp16"].status == "published"
    assert [v.name for v in data_folder.registry.variants("tiny")] == ["fp16", "fp32"]


def test_a_gate_refuses_records_why_and_changes_its_mind_without_building(
    tmp_path: Path, data_folder: DataFolder
) -> None:
    strict = written.onnx(tmp_path, FP32, "[gates]\nmin_accuracy = 1.0")
    (refused,) = build(strict, data_folder)
    assert refused.status == "refused"
    assert "below min_accuracy = 1" in refused.reason
    assert refused.manifest is not None, "the evidence stays"
    assert data_folder.registry.variants("tiny") == ()
    (passed,) = build(written.onnx(tmp_path, FP32, "[gates]\nmin_accuracy = 0.5"), data_folder)
    assert passed.status == "published"
    assert passed.manifest == refused.manifest


def test_a_pickle_in_an_npz_is_not_loaded(tmp_path: Path, data_folder: DataFolder) -> None:
    plan = written.onnx(tmp_path, FP32)
    np.savez(tmp_path / "rows.npz", labels=np.array([{}, {}], dtype=object))
    with pytest.raises(Invalid, match=r"rows\.npz: not an \.npz file of plain arrays"):
        build(plan, data_folder)
