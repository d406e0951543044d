"""The rows that a build works with: training, selection, test and calibration.

The *test* rows give the reported accuracy and nothing else. Gates and choices look at the
*selection* rows; *calibration* rows set the ranges of quantised activations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressors.user_model import UserModel
from variants.errors import Invalid
from variants.evaluation import EvaluationSet
from variants.runtimes import Tensor, Tensors
from variants.spec import ModelSpec

SELECTION_SHARE_OF_TRAINING = 10
"""Without selection rows of its own, one training row in this many (the last ones) is held out."""
SELECTION_SHARE_OF_EVALUATION = 5
"""An ONNX model without selection rows holds out one evaluation row in this many."""
CALIBRATION_ROWS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """The splits, disjoint. `train` is None for a model that came as an ONNX file."""

    train: EvaluationSet | None
    selection: EvaluationSet
    test: EvaluationSet
    calibration: Tensors

    @property
    def evaluated(self) -> dict[str, EvaluationSet]:
        """The splits on which every variant is scored, by name."""
        return {"test": self.test, "selection": self.selection}

    def training(self) -> EvaluationSet:
        """The training rows. Raises `Invalid` where there are none."""
        if self.train is None:
            raise Invalid("an ONNX model has no training data", field="train")
        return self.train


def from_user(user: UserModel, spec: ModelSpec) -> Data:
    """The splits that the user's functions return, checked against the model's inputs."""
    train = _labelled(user, "train_data", spec)
    if user.offers("selection_data"):
        selection = _labelled(user, "selection_data", spec)
    else:
        cut = len(train.labels) - max(1, len(train.labels) // SELECTION_SHARE_OF_TRAINING)
        train, selection = _part(train, slice(cut)), _part(train, slice(cut, None))
    calibration = _inputs(user.call("calibration_data"), spec, f"{user.path}: calibration_data()")
    return Data(
        train=train,
        selection=selection,
        test=_labelled(user, "eval_data", spec),
        calibration=calibration,
    )


def from_npz(
    evaluation: Path, selection: Path | None, calibration: Path | None, spec: ModelSpec, seed: int
) -> Data:
    """The splits of an ONNX model from `.npz` files with one array per input and `labels`.

    Without `selection`, a fifth of the evaluation rows, drawn by `seed`, becomes the selection
    split and only the others are reported. Without `calibration`, selection rows calibrate.
    """
    test = _read_npz(evaluation, spec)
    if selection is not None:
        chosen = _read_npz(selection, spec)
    else:
        order = np.random.default_rng(seed).permutation(len(test.labels))
        cut = len(order) // SELECTION_SHARE_OF_EVALUATION
        if cut == 0:
            raise Invalid(f"{evaluation}: {len(order)} rows are too few to hold a fifth out")
        chosen, test = _part(test, np.sort(order[:cut])), _part(test, np.sort(order[cut:]))
    rows: Tensors = _part(chosen, slice(CALIBRATION_ROWS)).inputs
    if calibration is not None:
        rows = _inputs(_arrays(calibration), spec, str(calibration))
    return Data(train=None, selection=chosen, test=test, calibration=rows)


def _labelled(user: UserModel, function: str, spec: ModelSpec) -> EvaluationSet:
    where = f"{user.path}: {function}()"
    result = user.call(function)
    if not isinstance(result, tuple) or len(result) != 2:
        raise Invalid(f"{where} must return (inputs, labels), not {type(result).__name__}")
    return _checked(result[0], result[1], spec, where)


def _read_npz(path: Path, spec: ModelSpec) -> EvaluationSet:
    arrays = _arrays(path)
    if "labels" not in arrays:
        raise Invalid(f"{path}: no array 'labels'; found: {', '.join(arrays) or 'none'}")
    labels = arrays.pop("labels")
    return _checked(arrays, labels, spec, str(path))


def _arrays(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError) as error:
        raise Invalid(f"{path}: not an .npz file of plain arrays: {error}") from error


def _checked(inputs: Any, labels: Any, spec: ModelSpec, where: str) -> EvaluationSet:
    classes = np.asarray(labels)
    if classes.ndim != 1 or not np.issubdtype(classes.dtype, np.integer):
        raise Invalid(
            f"{where}: labels are {classes.dtype}{list(classes.shape)}, need [n] integers"
        )
    count = spec.outputs[0].shape[-1]
    if len(classes) and not (classes.min() >= 0 and classes.max() < count):
        raise Invalid(
            f"{where}: labels run from {classes.min()} to {classes.max()}, "
            f"but {spec.outputs[0].name!r} has {count} classes"
        )
    try:
        return EvaluationSet(inputs=_inputs(inputs, spec, where), labels=classes.astype(np.int64))
    except Invalid as error:
        raise Invalid(f"{where}: {error}" if where not in str(error) else str(error)) from error


def _inputs(value: Any, spec: ModelSpec, where: str) -> dict[str, Tensor]:
    """Arrays by input name, each with the promised dtype and row shape."""
    names = [tensor.name for tensor in spec.inputs]
    if not isinstance(value, Mapping):
        if len(names) != 1:
            raise Invalid(f"{where}: return a dict with the inputs {', '.join(names)}")
        value = {names[0]: value}
    if set(value) != set(names):
        raise Invalid(
            f"{where}: inputs are {', '.join(map(repr, value)) or 'none'}, "
            f"the model has {', '.join(map(repr, names))}"
        )
    checked: dict[str, Tensor] = {}
    for tensor in spec.inputs:
        rows: NDArray[Any] = np.asarray(value[tensor.name])
        if rows.dtype.name != tensor.dtype or rows.shape[1:] != tensor.shape:
            raise Invalid(
                f"{where}: input {tensor.name!r} is {rows.dtype}{list(rows.shape)}, "
                f"the plan says {tensor.dtype}[n, {', '.join(map(str, tensor.shape))}]"
            )
        checked[tensor.name] = rows
    return checked


def _part(rows: EvaluationSet, which: slice | NDArray[np.int64]) -> EvaluationSet:
    return EvaluationSet(
        inputs={name: tensor[which] for name, tensor in rows.inputs.items()},
        labels=rows.labels[which],
    )
