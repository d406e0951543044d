"""Throw-away processes: what a stranger's file does to them never reaches the parent."""

import contextlib
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests import models
from tests.variants.malicious import ARTIFACTS, Canary
from variants import evaluation, runtimes, trial
from variants.errors import ArtifactRejected, TrialFailed
from variants.measure import Effort
from variants.profile import BATCHES, Accuracy, host_fingerprint
from variants.spec import ModelSpec, TensorSpec
from variants.trial import Request

QUICK = Effort(seconds=0.0, samples=3)
ORT = ("onnxruntime",)


@pytest.fixture
def request_(tiny_onnx: Path, tiny_spec: ModelSpec, tiny_evaluation: Path) -> Request:
    """The tiny classifier on ONNX Runtime with 100 labelled rows."""
    return Request(
        path=tiny_onnx,
        spec=tiny_spec,
        runtimes=ORT,
        evaluations={"test": tiny_evaluation},
        effort=QUICK,
        timeout_s=60,
    )


@pytest.fixture(autouse=True)
def nothing_left() -> Any:
    """No test leaves a process or an open file behind."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert children() == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def children() -> list[int]:
    """The throw-away processes; other tests may have started helpers of their own."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread or a child may end meanwhile
            for pid in (task / "children").read_text(encoding="ascii").split():
                if b"variants.trial" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
    return found


def at_first_progress(act: Callable[[int], None]) -> Callable[[float], None]:
    """A progress callback that acts once, on the process that reported."""
    waiting = [act]

    def progress(_: float) -> None:
        if waiting:
            (pid,) = children()
            waiting.pop()(pid)

    return progress


def refusal(request: Request) -> ArtifactRejected:
    with pytest.raises(ArtifactRejected) as raised:
        trial.run(request)
    return raised.value


def save(tmp_path: Path, nodes: list[Any], **arrays: np.ndarray) -> Path:
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    built = models.model(models.graph(nodes, initializers=initializers))
    return models.save(built, tmp_path / "other.onnx")


def test_answers_are_held_against_those_of_a_reference(request_: Request, tmp_path: Path) -> None:
    rows = models.tiny_evaluation(100, wrong=10).inputs["x"]
    mine, its = models.tiny_logits(rows), models.tiny_logits(rows, seed=3)
    file = tmp_path / "scores"
    its.astype("<f4").tofile(file)
    found = trial.run(replace(request_, reference_scores=file)).likeness
    assert found is not None
    assert (found.n, found.agreed) == (100, (mine.argmax(1) == its.argmax(1)).sum())
    assert found.max_abs_difference == pytest.approx(np.abs(mine - its).max(), rel=1e-4)
    its[:, :2].astype("<f4").tofile(file)
    with pytest.raises(ArtifactRejected, match="that of the reference") as refusal:
        trial.run(replace(request_, reference_scores=file))
    assert refusal.value.code == "signature_mismatch"


def test_a_known_artifact_is_scored_without_being_measured(request_: Request) -> None:
    rows = models.tiny_evaluation(100, wrong=10).inputs["x"]
    assert np.allclose(trial.scores(request_), models.tiny_logits(rows), atol=1e-5)
    with pytest.raises(ArtifactRejected):
        trial.scores(replace(request_, path=next(iter(request_.evaluations.values()))))


def test_a_sound_file_is_measured_and_scored(request_: Request) -> None:
    shares: list[float] = []
    result = trial.run(request_, shares.append)
    (profile,) = result.profiles
    assert result.runtime == profile.runtime == "onnxruntime"
    assert result.accuracy == {"test": Accuracy.of(90, 100)}
    assert result.failures == {}
    assert tuple(profile.latency_s) == BATCHES
    assert all(0 < q.p50 <= q.p95 <= q.p99 for q in profile.latency_s.values())
    assert profile.throughput_per_s == max(b / q.p50 for b, q in profile.latency_s.items())
    assert profile.host == host_fingerprint()
    assert profile.load_s > 0
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_scores_come_back_where_they_are_asked_for(request_: Request) -> None:
    assert trial.run(request_).scores == {}
    scores = trial.run(replace(request_, keep_scores=True)).scores["test"]
    rows = models.tiny_evaluation(100, wrong=10)
    assert scores.dtype == np.float32
    assert np.allclose(scores, models.tiny_logits(rows.inputs["x"]), atol=1e-5)
    assert int((scores.argmax(axis=1) == rows.labels).sum()) == 90


def test_every_installed_runtime_is_measured_and_the_fastest_chosen(request_: Request) -> None:
    result = trial.run(replace(request_, runtimes=runtimes.installed(), evaluations={}))
    assert tuple(p.runtime for p in result.profiles) == runtimes.installed()
    fastest = min(result.profiles, key=lambda p: p.latency_s[1].p50)
    assert result.runtime == fastest.runtime
    assert result.accuracy == {}


def test_a_runtime_that_cannot_load_it_is_listed_and_the_others_go_on(request_: Request) -> None:
    result = trial.run(replace(request_, runtimes=("fake", "onnxruntime")))
    assert result.runtime == "onnxruntime"
    assert list(result.failures) == ["fake"]


def test_another_format_is_refused_before_anything_loads_it(
    request_: Request, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    request_.path.write_bytes(pickle.dumps(Canary(canary)))
    assert refusal(request_).code == "format_not_allowed"
    assert not canary.exists()


def test_another_signature_than_the_models_is_refused(request_: Request) -> None:
    wide = (TensorSpec(name="x", dtype="float32", shape=(5,)),)
    refused = refusal(replace(request_, spec=replace(request_.spec, inputs=wide)))
    assert refused.code == "signature_mismatch"


def test_a_graph_that_lies_about_its_output_is_refused(request_: Request, tmp_path: Path) -> None:
    lie = save(tmp_path, [helper.make_node("Identity", ["x"], ["logits"])])
    assert refusal(replace(request_, path=lie)).code in {"signature_mismatch", "load_failed"}


def test_scores_that_are_not_numbers_are_refused(request_: Request, tmp_path: Path) -> None:
    path = save(
        tmp_path,
        [helper.make_node("MatMul", ["x", "w"], ["logits"])],
        w=np.full((4, 3), np.nan, dtype=np.float32),
    )
    with pytest.raises(ArtifactRejected, match="NaN"):
        trial.run(replace(request_, path=path))


def test_a_loader_error_is_told_in_its_own_words(request_: Request, tmp_path: Path) -> None:
    path = save(
        tmp_path,
        [helper.make_node("MatMul", ["x", "w"], ["logits"])],
        w=np.zeros((5, 3), dtype=np.float32),
    )
    refused = refusal(replace(request_, path=path))
    assert refused.code == "load_failed"
    assert "onnxruntime: " in str(refused)
    assert "MatMul" in str(refused)


def test_a_file_that_asks_for_too_much_memory_is_refused(request_: Request, tmp_path: Path) -> None:
    path = save(
        tmp_path,
        [
            helper.make_node("ConstantOfShape", ["size"], ["huge"]),
            helper.make_node("ReduceMax", ["huge"], ["zero"], keepdims=0),
            helper.make_node("Gemm", ["x", "w"], ["scores"]),
            helper.make_node("Add", ["scores", "zero"], ["logits"]),
        ],
        size=np.array([2**30], dtype=np.int64),
        w=np.zeros((4, 3), dtype=np.float32),
    )
    assert refusal(replace(request_, path=path, memory_bytes=4 * 2**30)).code == "load_failed"


def test_a_checker_without_memory_refuses_the_file(request_: Request) -> None:
    assert refusal(replace(request_, memory_bytes=1)).code == "load_failed"


def test_a_file_that_ends_one_runtime_is_not_kept_for_another(
    request_: Request, tmp_path: Path
) -> None:
    (crash,) = [malice for malice in ARTIFACTS if malice.name == "crash.onnx"]
    path = tmp_path / "crash.onnx"
    path.write_bytes(crash.content(tmp_path / "canary"))
    refused = refusal(replace(request_, path=path, runtimes=("onnxruntime", "fake")))
    assert str(refused) == "onnxruntime: the process died during profile (SIGFPE)"


def test_a_file_that_never_ends_is_cut_off(request_: Request, tmp_path: Path) -> None:
    slow = models.slow_onnx(tmp_path / "slow.onnx", iterations=2**40)
    refused = refusal(replace(request_, path=slow, timeout_s=4))
    assert refused.code == "load_failed"
    assert "did not end within 4 s" in str(refused)


def test_a_process_that_dies_while_measuring_refuses_the_file(request_: Request) -> None:
    patient = replace(request_, effort=Effort(seconds=1))
    with pytest.raises(ArtifactRejected, match="died during profile") as raised:
        trial.run(patient, at_first_progress(lambda pid: os.kill(pid, 9)))
    assert raised.value.code == "load_failed"


def test_a_process_that_dies_while_scoring_is_a_failed_trial(
    request_: Request, tmp_path: Path
) -> None:
    # More progress than a pipe holds, so the child cannot be done before it is killed.
    many = tmp_path / "many"
    many.write_bytes(evaluation.dumps(models.tiny_evaluation(200_000)))

    def kill_in_the_second_half(share: float) -> None:
        if share > 0.5:
            for pid in children():
                os.kill(pid, 9)

    with pytest.raises(TrialFailed, match="died during accuracy"):
        trial.run(replace(request_, evaluations={"many": many}), kill_in_the_second_half)


def test_the_child_has_limits_and_no_secrets(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GEARSHIFT_SECRET", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "SHARED_PEPPER"):
        monkeypatch.setenv(name, "hunter2")
    monkeypatch.setenv("KMP_BLOCKTIME", "0")
    seen: dict[str, str] = {}

    def look(pid: int) -> None:
        for name in ("environ", "limits"):
            seen[name] = Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8")

    trial.run(request_, at_first_progress(look))
    assert "KMP_BLOCKTIME=0" in seen["environ"]
    assert "hunter2" not in seen["environ"]
    limits = {line[:25].strip(): line[25:].split()[:2] for line in seen["limits"].splitlines()}
    assert limits["Max address space"] == [str(request_.memory_bytes)] * 2
    assert limits["Max file size"] == ["0", "0"]
    assert limits["Max core file size"] == ["0", "0"]
