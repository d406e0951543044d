"""Labelled held-out data as one safetensors blob."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from variants import evaluation
from variants.errors import Invalid
from variants.evaluation import EvaluationSet


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "evaluation"
    path.write_bytes(data)
    return path


def test_a_set_survives_a_round_trip(tmp_path: Path) -> None:
    rows = np.arange(24, dtype=np.float32).reshape(3, 2, 4).transpose(0, 2, 1)
    written = EvaluationSet(
        inputs={"x": rows, "mask": np.ones((3, 1), dtype=np.int64)}, labels=np.arange(3)
    )
    read = evaluation.load(write(tmp_path, evaluation.dumps(written)))
    assert set(read.inputs) == {"x", "mask"}
    np.testing.assert_array_equal(read.inputs["x"], rows)
    np.testing.assert_array_equal(read.labels, written.labels)


@given(st.integers(1, 50), st.integers(1, 60))
def test_batches_hold_every_row_once_and_in_order(rows: int, size: int) -> None:
    everything = np.arange(rows)
    parts = list(EvaluationSet(inputs={"x": everything}, labels=everything).batches(size))
    assert all(len(labels) == size for _, labels in parts[:-1])
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in parts]), everything)
    np.testing.assert_array_equal(np.concatenate([i["x"] for i, _ in parts]), everything)


@pytest.mark.parametrize(
    ("inputs", "labels", "field"),
    [
        ({"x": np.zeros((2, 4))}, np.zeros(0, dtype=np.int64), "labels"),
        ({"x": np.zeros((2, 4))}, np.zeros(3, dtype=np.int64), "x"),
        ({"x": np.zeros((2, 4))}, np.zeros((2, 1), dtype=np.int64), "labels"),
        ({"x": np.zeros((2, 4))}, np.zeros(2, dtype=np.float32), "labels"),
        ({"x": np.array(1.0)}, np.zeros(1, dtype=np.int64), "x"),
    ],
)
def test_rows_and_labels_that_do_not_belong_together_are_refused(
    tmp_path: Path, inputs: dict[str, np.ndarray], labels: np.ndarray, field: str
) -> None:
    tensors = {f"input.{name}": rows for name, rows in inputs.items()}
    path = write(tmp_path, save({**tensors, "labels": labels}))
    with pytest.raises(Invalid) as refusal:
        evaluation.load(path)
    assert refusal.value.field == field


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04pickle",
        b"\xff" * 64,
        (100 * 2**20).to_bytes(8, "little") + b"{}",
        save({"input.x": np.zeros((1, 4))}),
        evaluation.dumps(EvaluationSet(inputs={"x": np.zeros(9)}, labels=np.arange(9)))[:-8],
    ],
    ids=["empty", "pickle", "ones", "huge header", "no labels", "cut short"],
)
def test_a_damaged_file_is_invalid(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(Invalid):
        evaluation.load(write(tmp_path, data))
