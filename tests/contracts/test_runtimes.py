"""Every runtime in its folder keeps the same promises; a new file is tested without a new test."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests import models
from variants import runtimes
from variants.errors import Invalid
from variants.runtimes import Runtime, Session, Tensor

OUTPUT = "logits"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A runtime, an artifact that it takes, and what the artifact answers."""

    runtime: Runtime
    path: Path
    expected: Callable[[Tensor], Tensor]

    def load(self) -> Session:
        return self.runtime.load(self.path, 1)


def artifact(name: str, folder: Path) -> tuple[Path, Callable[[Tensor], Tensor]]:
    """A file without an ending, as blobs have none, and its function."""
    path = folder / "0123abcd"
    if name != "fake":
        return models.tiny_onnx(path), models.tiny_logits
    path.write_text(json.dumps({"outputs": {OUTPUT: [models.CLASSES]}, "scale": 2.0}))
    return path, lambda x: np.repeat(2 * x.sum(axis=1, keepdims=True), models.CLASSES, axis=1)


def require(name: str) -> Runtime:
    """The runtime, or a skipped test where its library is not installed."""
    runtime = runtimes.find(name)
    if runtime.REQUIRES is not None and find_spec(runtime.REQUIRES) is None:
        pytest.skip(f"{runtime.REQUIRES} is not installed")
    return runtime


@pytest.fixture(params=runtimes.names())
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    """Each runtime with a small artifact."""
    runtime = require(request.param)
    path, expected = artifact(request.param, tmp_path)
    return Case(runtime=runtime, path=path, expected=expected)


def test_version_is_what_a_manifest_can_record(case: Case) -> None:
    assert isinstance(case.runtime.version(), str)
    assert case.runtime.version()


@pytest.mark.parametrize("rows", [1, 2, 3, 32])
def test_answers_every_batch_size_by_output_name(case: Case, rows: int) -> None:
    x = models.tiny_rows(rows)
    outputs = case.load().run({"x": x})
    assert list(outputs) == [OUTPUT]
    assert outputs[OUTPUT].shape == (rows, models.CLASSES)
    assert outputs[OUTPUT].dtype == np.float32
    np.testing.assert_allclose(outputs[OUTPUT], case.expected(x), rtol=1e-4, atol=1e-5)


def test_batch_sizes_may_alternate_on_one_session(case: Case) -> None:
    session = case.load()
    for rows in (4, 1, 32, 2, 32, 1):
        x = models.tiny_rows(rows, seed=rows)
        outputs = session.run({"x": x})
        np.testing.assert_allclose(outputs[OUTPUT], case.expected(x), rtol=1e-4, atol=1e-5)


def test_an_answer_is_its_own_memory(case: Case) -> None:
    session = case.load()
    first = session.run({"x": models.tiny_rows(2, seed=1)})[OUTPUT]
    kept = first.copy()
    session.run({"x": models.tiny_rows(2, seed=2)})
    np.testing.assert_array_equal(first, kept)
    first[:] = 0  # and the caller may write to it
    np.testing.assert_array_equal(session.run({"x": models.tiny_rows(2, seed=1)})[OUTPUT], kept)


def test_inputs_are_left_alone_and_may_be_read_only_views(case: Case) -> None:
    x = np.asfortranarray(models.tiny_rows(6))[::2]
    before = x.copy()
    x.setflags(write=False)
    outputs = case.load().run({"x": x})
    np.testing.assert_array_equal(x, before)
    np.testing.assert_allclose(outputs[OUTPUT], case.expected(before), rtol=1e-4, atol=1e-5)


def test_equal_inputs_give_equal_outputs(case: Case) -> None:
    x = models.tiny_rows(8)
    first, second = (case.load().run({"x": x})[OUTPUT] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_two_sessions_and_more_threads_agree(case: Case) -> None:
    x = models.tiny_rows(4)
    one, two = case.load(), case.runtime.load(case.path, 2)
    np.testing.assert_allclose(one.run({"x": x})[OUTPUT], two.run({"x": x})[OUTPUT], rtol=1e-4)


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, b"\x80\x04pickle"])
def test_a_file_that_is_no_artifact_raises(case: Case, data: bytes) -> None:
    case.path.write_bytes(data)
    with pytest.raises(Exception, match=r"\S"):
        case.load()


@pytest.mark.parametrize("name", [name for name in runtimes.names() if name != "fake"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int64", "int32", "uint8"])
def test_tensors_pass_bit_for_bit_or_are_refused(tmp_path: Path, name: str, dtype: str) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    path = models.save(
        models.model(
            models.graph(
                [helper.make_node("Reshape", ["x", "shape"], ["y"])],
                inputs=[models.tensor("x", [models.BATCH, 2, 2], kind)],
                outputs=[models.tensor("y", [models.BATCH, 4], kind)],
                initializers=[helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 4])],
            )
        ),
        tmp_path / "model",
    )
    largest = np.finfo(dtype).max if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    x = np.array([0, 1, 7, largest, 3, 2, 1, 0], dtype=dtype).reshape(2, 2, 2)
    runtime = require(name)
    try:
        found = runtime.load(path, 1).run({"x": x})["y"]
    except Invalid as refusal:
        assert dtype in str(refusal) or f"beyond {dtype.replace('64', '32')}" in str(refusal)
        return
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, x.reshape(2, 4))


def test_an_unknown_runtime_is_refused_with_the_known_ones() -> None:
    for name in ("tensorrt", "os", "../fake", "fake.json", ""):
        with pytest.raises(Invalid, match="known: fake, onnxruntime") as refusal:
            runtimes.find(name)
        assert refusal.value.field == "runtime"


def test_installed_leaves_out_the_fake_and_what_is_missing() -> None:
    assert "fake" not in runtimes.installed()
    assert "onnxruntime" in runtimes.installed()
    assert set(runtimes.installed()) <= set(runtimes.names())


def test_listing_the_runtimes_imports_none_of_their_libraries() -> None:
    program = """
import sys
from variants import runtimes
libraries = {runtimes.find(name).REQUIRES for name in runtimes.names()}
runtimes.installed()
print(sorted({"torch", "onnx", *filter(None, libraries)} & set(sys.modules)))
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
