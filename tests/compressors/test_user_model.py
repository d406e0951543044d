"""What a user's file does wrong is said in one line, with file and line of the user's own code."""

from pathlib import Path

import numpy as np
import pytest

from compressors import data, user_model
from compressors.user_model import UserCodeFailed
from variants.errors import Invalid
from variants.spec import ModelSpec, TensorSpec

SPEC = ModelSpec(
    name="toy",
    task="classification",
    inputs=(TensorSpec(name="x", dtype="float32", shape=(2,)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(3,)),),
)
GOOD = """
import numpy as np

def rows(n):
    return np.zeros((n, 2), np.float32), np.arange(n) % 3

def train_data():
    return rows(50)

def eval_data():
    return rows(10)

def calibration_data():
    return rows(5)[0]
"""


def _load(folder: Path, code: str) -> user_model.UserModel:
    path = folder / "model.py"
    path.write_text(code, encoding="utf-8")
    return user_model.load(path)


def test_without_selection_rows_a_tenth_of_the_training_rows_is_held_out(tmp_path: Path) -> None:
    rows = data.from_user(_load(tmp_path, GOOD), SPEC)
    assert len(rows.training().labels) == 45
    assert len(rows.selection.labels) == 5
    assert len(rows.test.labels) == 10


def test_names_are_found_without_running_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text(
        "from elsewhere import train_data\nbuild_model = make()\ndef eval_data(): ...\n",
        encoding="utf-8",
    )
    assert user_model.offered(path) == {"train_data", "build_model", "eval_data"}


def test_an_error_in_the_file_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserCodeFailed, match=r"model\.py:2: loading it raised ZeroDivisionError"):
        _load(tmp_path, "x = 1\ny = x / 0\n")


def test_an_error_in_a_function_names_function_and_line(tmp_path: Path) -> None:
    model = _load(tmp_path, "def train_data():\n    return [][1]\n")
    with pytest.raises(UserCodeFailed, match=r"model\.py:2: train_data\(\) raised IndexError"):
        model.call("train_data")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("return rows(10)", "return rows(10)[0]", "must return"),
        ("np.float32", "np.float64", "the plan says float32"),
        ("(n, 2)", "(n, 3)", r"float32\[50, 3\]"),
        ("np.arange(n) % 3", "np.arange(n)", "labels run from 0 to 49"),
        ("np.arange(n) % 3", "np.zeros(n)", "integers"),
        ("return rows(10)", "return rows(0)", "empty"),
        ("return rows(10)", "return {'y': rows(10)[0]}, rows(10)[1]", "inputs are 'y'"),
    ],
)
def test_rows_that_differ_from_the_plan_are_named(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    model = _load(tmp_path, GOOD.replace(old, new))
    with pytest.raises(Invalid, match=says) as caught:
        data.from_user(model, SPEC)
    assert "model.py: " in str(caught.value)


def test_npz_rows_need_every_input_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, x=np.zeros((10, 2), np.float32))
    with pytest.raises(Invalid, match="no array 'labels'; found: x"):
        data.from_npz(path, None, None, SPEC, 1)


def test_npz_splits_do_not_overlap(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    numbers = np.arange(100, dtype=np.float32)
    np.savez(path, x=np.stack([numbers, numbers], axis=1), labels=np.arange(100) % 3)
    rows = data.from_npz(path, None, None, SPEC, 1)
    chosen, test = (set(s.inputs["x"][:, 0].astype(float)) for s in (rows.selection, rows.test))
    assert (len(chosen), len(test)) == (20, 80)
    assert not chosen & test
