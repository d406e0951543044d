"""Small real ONNX files and what a model promises about them, for tests of every package.

    path = tiny_onnx(tmp_path / "tiny.onnx")              # Linear 4→3, dynamic batch, opset 20
    spec = tiny_spec("flowers")                           # the promise that this file keeps
    evaluation = tiny_evaluation(rows=100)                # rows with the labels that it gives

`graph` and `model` build other files from nodes, mostly ones that must be refused.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from variants.evaluation import EvaluationSet
from variants.spec import TEXT_INPUTS, ImagePreprocess, ModelSpec, TensorSpec, TextPreprocess

FEATURES = 4
CLASSES = 3
LABELS = ("setosa", "versicolor", "virginica")
BATCH = "batch"
"""The dynamic leading axis."""


def weights(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight `[4, 3]` and bias `[3]` of the tiny classifier."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(FEATURES, CLASSES)).astype(np.float32)
    return weight, rng.normal(size=CLASSES).astype(np.float32)


def tensor(name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> Any:
    """A graph input or output."""
    return helper.make_tensor_value_info(name, dtype, shape)


def graph(
    nodes: Iterable[Any],
    *,
    inputs: Iterable[Any] | None = None,
    outputs: Iterable[Any] | None = None,
    initializers: Iterable[Any] = (),
) -> Any:
    """A graph; by default from `x [batch, 4]` to `logits [batch, 3]`."""
    return helper.make_graph(
        list(nodes),
        "tiny",
        [tensor("x", [BATCH, FEATURES])] if inputs is None else list(inputs),
        [tensor("logits", [BATCH, CLASSES])] if outputs is None else list(outputs),
        list(initializers),
    )


def model(graph: Any, *, opset: int = 20, domains: Sequence[str] = (), **fields: Any) -> Any:
    """A model around a graph, with version 1 of further operator domains."""
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(domain, 1) for domain in domains]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, **fields)


def linear(seed: int = 0) -> Any:
    """The tiny classifier: `logits = x · weight + bias`."""
    weight, bias = weights(seed)
    return model(
        graph(
            [helper.make_node("Gemm", ["x", "weight", "bias"], ["logits"])],
            initializers=[
                numpy_helper.from_array(weight, "weight"),
                numpy_helper.from_array(bias, "bias"),
            ],
        )
    )


def save(model: Any, path: Path) -> Path:
    """Write a model without asking whether it is sound."""
    path.write_bytes(model.SerializeToString())
    return path


def tiny_onnx(path: Path, *, seed: int = 0) -> Path:
    """The tiny classifier as a file; every seed gives other bytes with the same signature."""
    onnx.checker.check_model(built := linear(seed))
    return save(built, path)


def slow_onnx(path: Path, *, iterations: int, seed: int = 0) -> Path:
    """The tiny classifier of that seed, after a loop of that many multiplications."""
    size = 256
    square = numpy_helper.from_array(np.eye(size, dtype=np.float32), "square")
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "square"], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            tensor("i", [], TensorProto.INT64),
            tensor("go", [], TensorProto.BOOL),
            tensor("state", [size, size]),
        ],
        [tensor("go_on", [], TensorProto.BOOL), tensor("next", [size, size])],
    )
    weight, bias = weights(seed)
    nodes = [
        helper.make_node("Loop", ["count", "", "square"], ["end"], body=body),
        helper.make_node("ReduceMax", ["end"], ["one"], keepdims=0),
        helper.make_node("Mul", ["x", "one"], ["scaled"]),
        helper.make_node("Gemm", ["scaled", "weight", "bias"], ["logits"]),
    ]
    initializers = [
        square,
        numpy_helper.from_array(np.array(iterations, dtype=np.int64), "count"),
        numpy_helper.from_array(weight, "weight"),
        numpy_helper.from_array(bias, "bias"),
    ]
    return save(model(graph(nodes, initializers=initializers)), path)


def tiny_spec(name: str = "tiny") -> ModelSpec:
    """What `tiny_onnx` keeps: `x float32[4]` to `logits float32[3]`, three labels."""
    return ModelSpec(
        name=name,
        task="classification",
        inputs=(TensorSpec(name="x", dtype="float32", shape=(FEATURES,)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(CLASSES,)),),
        labels=LABELS,
    )


def tiny_rows(rows: int, seed: int = 1) -> NDArray[np.float32]:
    """Random inputs `[rows, 4]`."""
    return np.random.default_rng(seed).normal(size=(rows, FEATURES)).astype(np.float32)


def tiny_logits(x: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """What `tiny_onnx` of that seed answers for `x`."""
    weight, bias = weights(seed)
    return x @ weight + bias


def tiny_evaluation(rows: int = 100, *, wrong: int = 0) -> EvaluationSet:
    """Rows labelled by the tiny classifier itself, the first `wrong` of them wrongly."""
    x = tiny_rows(rows)
    labels = tiny_logits(x).argmax(axis=1).astype(np.int64)
    labels[:wrong] = (labels[:wrong] + 1) % CLASSES
    return EvaluationSet(inputs={"x": x}, labels=labels)


def picture_onnx(path: Path, *, side: int = 8, channels: int = 1, seed: int = 0) -> Path:
    """A classifier of pictures: `x [batch, channels, side, side]` to `logits [batch, 3]`."""
    pixels = channels * side * side
    weight = np.random.default_rng(seed).normal(size=(pixels, CLASSES)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    shape: list[int | str] = [BATCH, channels, side, side]
    initializers = [numpy_helper.from_array(weight, "weight")]
    return save(model(graph(nodes, inputs=[tensor("x", shape)], initializers=initializers)), path)


def picture_spec(
    name: str = "picture", *, side: int = 8, mode: Literal["L", "RGB"] = "L"
) -> ModelSpec:
    """What `picture_onnx` keeps; its input may be sent as a PNG or JPEG."""
    channels = 1 if mode == "L" else 3
    return ModelSpec(
        name=name,
        task="classification",
        inputs=(TensorSpec(name="x", dtype="float32", shape=(channels, side, side)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(CLASSES,)),),
        labels=LABELS,
        preprocess=ImagePreprocess(mode=mode),
    )


WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "fine", "dull", "film", "a", "##s")
TOKENS = 8


def tiny_tokenizer(words: Sequence[str] = WORDS) -> bytes:
    """A `tokenizer.json` in BERT's form with these few words."""
    numbers = {word: number for number, word in enumerate(words)}
    ends = [{"SpecialToken": {"id": word, "type_id": 0}} for word in ("[CLS]", "[SEP]")]
    middle = {"Sequence": {"id": "A", "type_id": 0}}
    content = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [ends[0], middle, ends[1]],
            "pair": [ends[0], middle, ends[1]],
            "special_tokens": {
                word: {"id": word, "ids": [number], "tokens": [word]}
                for word, number in (("[CLS]", 2), ("[SEP]", 3))
            },
        },
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": numbers,
        },
    }
    return json.dumps(content).encode()


def text_onnx(path: Path, *, seed: int = 0) -> Path:
    """A classifier of texts: the sum over all tokens of three numbers for each word."""
    weight = np.random.default_rng(seed).normal(size=(len(WORDS), CLASSES)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["weight", "input_ids"], ["words"]),
        helper.make_node("Cast", ["attention_mask"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["float", "last"], ["present"]),
        helper.make_node("Mul", ["words", "present"], ["counted"]),
        helper.make_node("ReduceSum", ["counted", "tokens"], ["logits"], keepdims=0),
    ]
    initializers = [
        numpy_helper.from_array(weight, "weight"),
        numpy_helper.from_array(np.array([2], dtype=np.int64), "last"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "tokens"),
    ]
    inputs = [tensor(name, [BATCH, TOKENS], TensorProto.INT64) for name in TEXT_INPUTS[:2]]
    return save(model(graph(nodes, inputs=inputs, initializers=initializers)), path)


def text_spec(tokenizer: str, name: str = "words") -> ModelSpec:
    """What `text_onnx` keeps; `tokenizer` is the digest of `tiny_tokenizer()` in the store."""
    return ModelSpec(
        name=name,
        task="classification",
        inputs=tuple(
            TensorSpec(name=name, dtype="int64", shape=(TOKENS,)) for name in TEXT_INPUTS[:2]
        ),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(CLASSES,)),),
        labels=LABELS,
        preprocess=TextPreprocess(tokenizer=tokenizer, max_tokens=TOKENS),
    )


def pair_onnx(path: Path) -> Path:
    """Raw tensors: `log = ln(x)`, which is NaN below 0, and `chosen = ids where flag else −ids`."""
    nodes = [
        helper.make_node("Log", ["x"], ["log"]),
        helper.make_node("Neg", ["ids"], ["negative"]),
        helper.make_node("Where", ["flag", "ids", "negative"], ["chosen"]),
    ]
    inputs = [
        tensor("x", [BATCH, 2, 3]),
        tensor("ids", [BATCH, 2], TensorProto.INT64),
        tensor("flag", [BATCH, 1], TensorProto.BOOL),
    ]
    outputs = [tensor("log", [BATCH, 2, 3]), tensor("chosen", [BATCH, 2], TensorProto.INT64)]
    return save(model(graph(nodes, inputs=inputs, outputs=outputs)), path)


def pair_spec(name: str = "pair") -> ModelSpec:
    """What `pair_onnx` keeps: three inputs of three kinds, two raw outputs."""
    return ModelSpec(
        name=name,
        task="tensors",
        inputs=(
            TensorSpec(name="x", dtype="float32", shape=(2, 3)),
            TensorSpec(name="ids", dtype="int64", shape=(2,)),
            TensorSpec(name="flag", dtype="bool", shape=(1,)),
        ),
        outputs=(
            TensorSpec(name="log", dtype="float32", shape=(2, 3)),
            TensorSpec(name="chosen", dtype="int64", shape=(2,)),
        ),
        max_batch=8,
    )


def patient_onnx(path: Path) -> Path:
    """As slow as it is asked to be: `x [batch, 1]` is the number of multiplications to make."""
    size = 256
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "square"], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            tensor("i", [], TensorProto.INT64),
            tensor("go", [], TensorProto.BOOL),
            tensor("state", [size, size]),
        ],
        [tensor("go_on", [], TensorProto.BOOL), tensor("next", [size, size])],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["count"], to=TensorProto.INT64),
        helper.make_node("Loop", ["count", "", "square"], ["end"], body=body),
        helper.make_node("ReduceMax", ["end"], ["one"], keepdims=0),
        helper.make_node("Mul", ["x", "one"], ["y"]),
    ]
    square = numpy_helper.from_array(np.eye(size, dtype=np.float32), "square")
    built = graph(
        nodes,
        inputs=[tensor("x", [BATCH, 1])],
        outputs=[tensor("y", [BATCH, 1])],
        initializers=[square],
    )
    return save(model(built), path)


def patient_spec(name: str = "patient") -> ModelSpec:
    """What `patient_onnx` keeps: one number in, the same number out."""
    return ModelSpec(
        name=name,
        task="tensors",
        inputs=(TensorSpec(name="x", dtype="float32", shape=(1,)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(1,)),),
        max_batch=1,
    )
