"""Where a plan's model comes from: its promise, its rows and its untrained or given form.

Loaded only when there is something to build, because a user's file imports torch.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from compressors import data, texts, user_model
from compressors.data import Data
from compressors.plan import Plan, TextTable
from compressors.user_model import UserModel
from variants import artifact
from variants import tokenizer as tokenizers
from variants.errors import ArtifactRejected, Invalid
from variants.spec import ModelSpec, Preprocess, TensorSpec, TextPreprocess


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A loaded model source. Exactly one of `user` and `onnx` is given.

    `tokenizer` holds a text model's `tokenizer.json`, which the store keeps under its digest.
    """

    spec: ModelSpec
    data: Data
    user: UserModel | None
    onnx: Path | None
    note: str
    tokenizer: bytes | None = None


def load(plan: Plan) -> Source:
    """Run the user's file, or read the ONNX file's signature, and collect the rows.

    Raises `Invalid` for rows or tensors that differ from the plan, `UserCodeFailed` for an error
    in the user's file.
    """
    # libgomp reads this when torch is imported. By default its threads spin for milliseconds at
    # each barrier, which made training three times slower wherever another process wanted the same
    # cores; not spinning at all made it a quarter slower on idle ones.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    table = plan.model
    if table.python is not None:
        user = user_model.load(table.python)
        labels = table.labels
        if not labels and user.offers("labels"):
            labels = tuple(map(str, user.call("labels")))
        tokenizer = _tokenizer(plan, user)
        spec = _spec(plan, table.inputs, table.outputs, labels, tokenizer)
        note = str(user.call("note")) if user.offers("note") else ""
        return Source(
            spec=spec,
            data=data.from_user(user, spec),
            user=user,
            onnx=None,
            note=note,
            tokenizer=tokenizer,
        )
    assert table.onnx is not None and table.evaluation is not None
    try:
        found = artifact.check_onnx(table.onnx)
        if table.inputs or table.outputs:
            artifact.check_signature(
                found, table.inputs or found.inputs, table.outputs or found.outputs
            )
    except ArtifactRejected as error:
        raise Invalid(f"{table.onnx}: {error}", field="model.onnx") from error
    tokenizer = _tokenizer(plan, None)
    spec = _spec(plan, found.inputs, found.outputs, table.labels, tokenizer)
    rows = data.from_npz(table.evaluation, table.selection, table.calibration, spec, plan.seed)
    return Source(spec=spec, data=rows, user=None, onnx=table.onnx, note="", tokenizer=tokenizer)


def _tokenizer(plan: Plan, user: UserModel | None) -> bytes | None:
    """The plan's or the user's `tokenizer.json`. Raises `Invalid` where it is not usable."""
    table = plan.model.preprocess
    if not isinstance(table, TextTable):
        return None
    if table.tokenizer is not None:
        path = plan.path.resolve().parent / table.tokenizer
    else:
        assert user is not None, "the plan was checked"
        path = Path(user.call("tokenizer"))
    raw = texts.read(path)
    try:
        tokenizers.loads(raw, table.max_tokens)
    except Invalid as error:
        raise Invalid(f"{path}: {error}", field="model.preprocess") from error
    return raw


def _preprocess(plan: Plan, tokenizer: bytes | None) -> Preprocess | None:
    table = plan.model.preprocess
    if not isinstance(table, TextTable):
        return table
    assert tokenizer is not None
    digest = hashlib.sha256(tokenizer).hexdigest()
    return TextPreprocess(tokenizer=digest, max_tokens=table.max_tokens)


def _spec(
    plan: Plan,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    labels: tuple[str, ...],
    tokenizer: bytes | None,
) -> ModelSpec:
    if len(outputs[0].shape) != 1:
        raise Invalid(
            f"{plan.path}: the first output has shape {list(outputs[0].shape)}; "
            "classification needs one axis of classes"
        )
    if labels and len(labels) != outputs[0].shape[0]:
        raise Invalid(
            f"{plan.path}: {len(labels)} labels for {outputs[0].shape[0]} classes",
            field="model.labels",
        )
    try:
        return ModelSpec(
            name=plan.model.name,
            task=plan.model.task,
            inputs=inputs,
            outputs=outputs,
            labels=labels,
            preprocess=_preprocess(plan, tokenizer),
            max_batch=plan.model.max_batch,
        )
    except ValueError as error:
        raise Invalid(f"{plan.path}: {error}", field="model") from error
