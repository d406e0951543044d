"""Files that a stranger may upload, and what each must be refused with.

for malice in ARTIFACTS:
    path.write_bytes(malice.content(canary))     # the canary exists only if something ran
    # refused with malice.code, in words that hold malice.words

`code` is one of `variants.artifact.REJECTIONS`. `stage` says what refuses it: `format` (before
anything parses it), `structure` (before any runtime loads it) or `trial` (the throw-away process).
"""

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save as safetensors

from tests import models
from tests.models import BATCH, graph, model, tensor
from variants import artifact

Stage = Literal["format", "structure", "trial"]
NODE = helper.make_node


@dataclass(frozen=True, kw_only=True, slots=True)
class Malice:
    """One file: its name, its bytes (given where a canary would appear) and its refusal."""

    name: str
    content: Callable[[Path], bytes]
    code: str
    words: str
    stage: Stage


class Canary:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


# Formats that run code when they are opened, and containers of them


def _pickled(protocol: int) -> Callable[[Path], bytes]:
    return lambda canary: pickle.dumps(Canary(canary), protocol=protocol)


def _numpy_objects(canary: Path) -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([Canary(canary)], dtype=object), allow_pickle=True)
    return out.getvalue()


def _numpy_archive(canary: Path) -> bytes:
    out = io.BytesIO()
    np.savez(out, weight=np.array([Canary(canary)], dtype=object))
    return out.getvalue()


def _old_torch(canary: Path) -> bytes:
    """What `torch.save` wrote before it wrote archives: a row of pickles."""
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, Canary(canary))
    return b"".join(pickle.dumps(part, protocol=2) for part in parts)


def _zip(canary: Path, *names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, pickle.dumps(Canary(canary)))
    return out.getvalue()


def _zip_bomb(_: Path) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights", bytes(16 << 20))
    return out.getvalue()


def _tar(canary: Path, mode: Literal["w", "w:gz", "w:bz2", "w:xz"] = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        archive.addfile(tarfile.TarInfo("../" + canary.name))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return out.getvalue()


def _text(words: bytes) -> Callable[[Path], bytes]:
    return lambda canary: words.replace(b"CANARY", str(canary).encode())


def _foreign() -> Iterator[tuple[str, Callable[[Path], bytes]]]:
    endings = ("onnx", "pt", "bin", "safetensors", "pkl", "joblib")
    for protocol, ending in enumerate(endings):
        yield f"pickle-{protocol}.{ending}", _pickled(protocol)
    yield "packed.joblib", lambda p: zlib.compress(pickle.dumps(Canary(p)))
    yield "old-torch.pth", _old_torch
    yield "objects.npy", _numpy_objects
    yield "objects.npz", _numpy_archive
    yield "torch.pt", lambda p: _zip(p, "model/data.pkl", "model/version")
    yield "torchscript.pt", lambda p: _zip(p, "model/code/__torch__.py", "model/constants.pkl")
    yield "archive.mar", lambda p: _zip(p, "MAR-INF/MANIFEST.json", "handler.py")
    yield "lambda.keras", lambda p: _zip(p, "config.json", "model.weights.h5")
    yield "slip.zip", lambda p: _zip(p, f"../../{p.name}", str(p), "C:\\x")
    yield "bomb.zip", _zip_bomb
    yield "empty.zip", _zip
    yield "plain.tar", _tar
    yield "packed.tar.gz", lambda p: _tar(p, "w:gz")
    yield "packed.tar.bz2", lambda p: _tar(p, "w:bz2")
    yield "packed.tar.xz", lambda p: _tar(p, "w:xz")
    yield "pickle.gz", lambda p: gzip.compress(pickle.dumps(Canary(p)))
    yield "pickle.bz2", lambda p: bz2.compress(pickle.dumps(Canary(p)))
    yield "pickle.xz", lambda p: lzma.compress(pickle.dumps(Canary(p)))
    yield "model.h5", lambda _: b"\x89HDF\r\n\x1a\n" + bytes(64)
    yield "model.gguf", lambda _: b"GGUF\x03\x00\x00\x00" + b"\xff" * 16
    yield "model.tflite", lambda _: b"\x1c\x00\x00\x00TFL3" + bytes(64)
    yield "model.ort", lambda _: b"\x1c\x00\x00\x00ORTM" + bytes(64)
    yield "library.so", lambda _: b"\x7fELF\x02\x01\x01" + bytes(64)
    yield "weights.safetensors", lambda _: safetensors({"weight": np.zeros(3)})
    yield "openvino.xml", _text(b'<?xml version="1.0"?><net name="n" version="11"></net>')
    yield "script.sh", _text(b"#!/bin/sh\ntouch CANARY\n")
    yield "script.py", _text(b"import os\nos.system('touch CANARY')\n")
    yield "page.html", _text(b"<script>fetch('http://169.254.169.254/')</script>")
    yield "pointer.onnx", _text(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    yield "address.onnx", _text(b"http://169.254.169.254/latest/meta-data/")
    yield "empty.onnx", lambda _: b""
    yield "zeros.onnx", lambda _: bytes(1024)
    yield "tensor.onnx", lambda _: numpy_helper.from_array(np.zeros(3), "x").SerializeToString()
    yield "graph.onnx", lambda _: models.linear().graph.SerializeToString()


# Polyglots: a sound ONNX file that is something else as well


SOUND = models.linear().SerializeToString()


def _polyglots() -> Iterator[tuple[str, Callable[[Path], bytes]]]:
    yield "onnx-then-zip.onnx", lambda p: SOUND + _zip(p, "data.pkl")
    yield "onnx-then-pickle.onnx", lambda p: SOUND + pickle.dumps(Canary(p))
    yield "pickle-then-onnx.onnx", lambda p: pickle.dumps(Canary(p)) + SOUND
    yield "onnx-then-tar.onnx", lambda p: SOUND + _tar(p)
    yield "onnx-then-onnx.onnx", lambda _: SOUND + SOUND
    yield "onnx-then-elf.onnx", lambda _: SOUND + b"\x7fELF" + bytes(64)
    yield "zip-in-a-description.onnx", _zip_in_a_description


def _zip_in_a_description(canary: Path) -> bytes:
    """A whole model to the last byte, and a whole archive from behind."""
    return SOUND + _field(6, _zip(canary, "data.pkl"))  # doc_string


# Protobuf


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _field(number: int, data: bytes, length: int | None = None) -> bytes:
    """One length-delimited field, which may lie about its length."""
    return _varint(number << 3 | 2) + _varint(len(data) if length is None else length) + data


def _inside(levels: int, *numbers: int) -> bytes:
    """Nothing, wrapped in these fields again and again."""
    data = b""
    for _ in range(levels):
        for number in reversed(numbers):
            data = _field(number, data)
    return data


OPSET = b"\x42\x02\x10\x14"


def _wires() -> Iterator[tuple[str, bytes, str, str, Stage]]:
    """Bytes by hand: name, content, code, words and what refuses it."""
    not_onnx = "format_not_allowed"
    nested = _inside(5000, 1, 5, 6)
    yield (
        "nested-graphs.onnx",
        _field(7, nested) + OPSET,
        not_onnx,
        "not ONNX",
        "structure",
    )  # graph.node.attribute.g
    types = _field(11, _field(2, _inside(5000, 4, 1)))  # input.type.sequence_type.elem_type
    yield "nested-types.onnx", _field(7, types) + OPSET, not_onnx, "not ONNX", "structure"
    yield (
        "huge-length.onnx",
        b"\x08\x09" + _field(7, b"", length=2**62),
        not_onnx,
        "4611686018427387904 bytes",
        "format",
    )
    yield "endless-number.onnx", b"\x08" + b"\xff" * 64, not_onnx, "does not end", "format"
    yield "many-fields.onnx", b"\x08\x09" * 1_000_000, not_onnx, "outermost fields", "format"
    yield "two-graphs.onnx", SOUND + _field(7, b""), not_onnx, "2 graphs", "format"
    yield "no-operator-set.onnx", _field(7, b""), not_onnx, "no operator set", "format"
    yield "unknown-field.onnx", SOUND + _field(99, bytes(64)), not_onnx, "no field of", "format"
    hidden = models.linear()
    cut = SOUND.index(b"\x3a")  # the graph begins
    body = hidden.graph.SerializeToString() + _field(99, bytes(1000))
    yield (
        "unknown-field-in-the-graph.onnx",
        SOUND[:cut] + _field(7, body) + OPSET,
        "malformed",
        "100[0-9] bytes of it are fields",
        "structure",
    )


# Graphs


def _i64(name: str, values: object) -> Any:
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


WEIGHT = numpy_helper.from_array(np.zeros((4, 3), dtype=np.float32), "w")


def _answering(*nodes: Any, constants: Sequence[Any] = ()) -> Any:
    """A model whose answer depends on a value `blow` of any shape and type."""
    end = [
        NODE("Cast", ["blow"], ["float"], to=TensorProto.FLOAT),
        NODE("ReduceMax", ["float"], ["most"], keepdims=0),
        NODE("Gemm", ["x", "w"], ["scores"]),
        NODE("Add", ["scores", "most"], ["logits"]),
    ]
    built = model(graph([*nodes, *end], initializers=[WEIGHT, *constants]))
    built.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return built


def _external(**fields: str) -> Any:
    built = models.linear()
    weight = built.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in fields.items():
        weight.external_data.add(key=key, value=value)
    return built


def _sparse_outside() -> Any:
    built = models.linear()
    sparse = built.graph.sparse_initializer.add(dims=[4])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, dtype=np.float32), "values"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, dtype=np.int64), "indices"))
    sparse.values.external_data.add(key="location", value="/etc/passwd")
    return built


def _constant_outside() -> Any:
    outside = TensorProto(name="stolen", data_type=TensorProto.FLOAT, dims=[1])
    outside.external_data.add(key="location", value="/etc/passwd")
    constant = NODE("Constant", [], ["c"])
    constant.attribute.append(helper.make_attribute("value", outside))
    return model(graph([constant, NODE("Add", ["x", "c"], ["logits"])]))


def _branching(node: Any) -> Any:
    """A model with a node inside both branches of an `If`."""
    branch = helper.make_graph([node], "branch", [], [tensor("inner", [BATCH, 3])])
    go = numpy_helper.from_array(np.array(True), "go")
    nodes = [NODE("If", ["go"], ["logits"], then_branch=branch, else_branch=branch)]
    return model(graph(nodes, initializers=[go]))


def _with_function(name: str, domain: str, calls: str) -> Any:
    built = models.linear()
    nodes = [NODE(calls, ["a"], ["b"], domain=domain)]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(domain, 1)]
    built.functions.append(helper.make_function(domain, name, ["a"], ["b"], nodes, opsets))
    return built


def _changed(change: Callable[[Any], object]) -> Any:
    built = models.linear()
    change(built)
    return built


def _huge_constant(dims: Sequence[int]) -> Any:
    huge = TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(4))
    return _changed(lambda built: built.graph.initializer.append(huge))


def _growing() -> Any:
    """A loop that doubles a value forty times: nothing says how large it will be."""
    body = helper.make_graph(
        [
            NODE("Concat", ["state", "state"], ["next"], axis=0),
            NODE("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            tensor("i", [], TensorProto.INT64),
            tensor("go", [], TensorProto.BOOL),
            tensor("state", ["n"]),
        ],
        [tensor("go_on", [], TensorProto.BOOL), tensor("next", ["m"])],
    )
    start = numpy_helper.from_array(np.zeros(1, dtype=np.float32), "start")
    loop = NODE("Loop", ["times", "", "start"], ["blow"], name="doubling", body=body)
    return _answering(loop, constants=[_i64("times", 40), start])


def _crashing() -> Any:
    """The one quotient of two integers that does not fit: the processor stops the program."""
    return _answering(
        NODE("Div", ["least", "minus"], ["blow"], name="overflow"),
        constants=[_i64("least", [-(2**63)]), _i64("minus", [-1])],
    )


Row = tuple[str, Any, str, str, Stage]
"""Name, model, code, words and what refuses it."""


def _outside() -> Iterator[Row]:
    """Data that lies in other files."""
    for name, location in {
        "upwards": "../../etc/passwd",
        "absolute": "/etc/passwd",
        "beside": "weights.bin",
        "symlink": "link-to-the-store",
        "address": "http://169.254.169.254/",
        "nothing": "",
    }.items():
        built = _external(location=location, offset="0", length="48")
        yield f"external-{name}.onnx", built, "external_data", "tensor 'weight'", "structure"
    yield "external-sparse.onnx", _sparse_outside(), "external_data", "'values'", "structure"
    yield "external-constant.onnx", _constant_outside(), "external_data", "'stolen'", "structure"


def _operators() -> Iterator[Row]:
    """Operators, functions and operator sets that are not ONNX's own."""
    shell = NODE("Shell", ["x"], ["logits"], name="run", domain="evil")
    inner = NODE("Shell", ["x"], ["inner"], name="deep", domain="evil")
    declared = model(graph([shell]), domains=["evil"])
    python = NODE("PyCustomOp", ["x"], ["blow"], domain="ai.onnx.contrib")
    context = NODE("EPContext", ["x"], ["blow"], name="context", domain="com.microsoft")
    yield (
        "operator.onnx",
        model(graph([shell])),
        "custom_domain",
        "node 0 'run', operator Shell",
        "structure",
    )
    yield "operator-declared.onnx", declared, "custom_domain", "domain 'evil'", "structure"
    yield (
        "operator-inside.onnx",
        _branching(inner),
        "custom_domain",
        "'deep', operator Shell",
        "structure",
    )
    yield "operator-python.onnx", _answering(python), "custom_domain", "PyCustomOp", "structure"
    yield "operator-context.onnx", _answering(context), "custom_domain", "EPContext", "structure"
    unknown = model(graph([NODE("DoesNotExist", ["x"], ["logits"])]))
    yield "operator-unknown.onnx", unknown, "operator_not_allowed", "DoesNotExist", "structure"
    recursing = _with_function("Again", "ai.onnx", "Again")
    yield (
        "function.onnx",
        _with_function("Mine", "ai.onnx", "Relu"),
        "custom_domain",
        "'Mine'",
        ("structure"),
    )
    yield "function-recursing.onnx", recursing, "custom_domain", "functions", "structure"
    training = _changed(lambda m: m.training_info.add().algorithm.CopyFrom(m.graph))
    yield "training.onnx", training, "malformed", "training", "structure"

    for opset in (1, artifact.OPSETS.start - 1, artifact.OPSETS.stop, 2**63 - 1, -1):

        def set_opset(built: Any, opset: int = opset) -> None:
            built.opset_import[0].version = opset

        yield (
            f"opset-{opset}.onnx",
            _changed(set_opset),
            "opset_not_allowed",
            str(opset),
            ("structure"),
        )
    second = _changed(lambda m: m.opset_import.append(helper.make_opsetid("", 7)))
    yield "opset-second.onnx", second, "opset_not_allowed", "opset 7", "structure"
    future = _changed(lambda m: setattr(m, "ir_version", 10_000))
    yield "future.onnx", future, "malformed", "ir_version|IR", "structure"


def _wiring() -> Iterator[Row]:
    """Graphs whose nodes do not follow from each other."""
    cycle = [
        NODE("Add", ["x", "b"], ["a"], name="first"),
        NODE("Identity", ["a"], ["b"]),
        NODE("Gemm", ["b", "w"], ["logits"]),
    ]
    cyclic = model(graph(cycle, initializers=[WEIGHT]))
    yield "cycle.onnx", cyclic, "malformed", "'b' of node.*first", "structure"
    self_fed = model(graph([NODE("Add", ["x", "logits"], ["logits"], name="me")]))
    yield "cycle-of-one.onnx", self_fed, "malformed", "'logits' of node", "structure"
    nothing = model(graph([NODE("Identity", ["nowhere"], ["logits"], name="lost")]))
    yield "dangling.onnx", nothing, "malformed", "nowhere", "structure"
    twice = model(graph([NODE("Relu", ["x"], ["logits"]), NODE("Abs", ["x"], ["logits"])]))
    yield "made-twice.onnx", twice, "malformed", "logits", "structure"


def _constants() -> Iterator[Row]:
    """Constants that are small in the file and large in memory."""
    for name, dims in {"one": [2**40], "two": [2**31, 2**31], "many": [2**62] * 100}.items():
        yield f"constant-{name}.onnx", _huge_constant(dims), "too_large", "'huge'", "structure"
    yield (
        "constant-negative.onnx",
        _huge_constant([-1]),
        "malformed",
        "dimension of -1",
        "structure",
    )
    yield "constant-short.onnx", _huge_constant([2**28]), "malformed", "4 bytes for", "structure"
    one, far = _i64("one", [1]), _i64("far", [2**34])
    scalars = [_i64("from", 0), _i64("to", 2**40), _i64("by", 1)]
    blows = {
        "ConstantOfShape": (NODE("ConstantOfShape", ["far"], ["blow"], name="grow"), [far]),
        "Expand": (NODE("Expand", ["one", "far"], ["blow"], name="grow"), [one, far]),
        "Tile": (NODE("Tile", ["one", "far"], ["blow"], name="grow"), [one, far]),
        "Range": (NODE("Range", ["from", "to", "by"], ["blow"], name="grow"), scalars),
    }
    for operator, (node, constants) in blows.items():
        built = _answering(node, constants=constants)
        words = f"node 0 'grow', operator {operator}:"
        yield f"blow-{operator.lower()}.onnx", built, "too_large", words, "structure"
    yield "blow-loop.onnx", _growing(), "load_failed", "onnxruntime: .*", "trial"


def _floods() -> Iterator[Row]:
    """Too many of everything."""
    flood = [NODE("Identity", ["x"], ["logits"])] * (artifact.MAX_NODES + 1)
    yield "nodes.onnx", model(graph(flood)), "too_large", "nodes", "structure"
    values = [tensor(f"v{number}", [1]) for number in range(1000)] * 401
    yield (
        "values.onnx",
        _changed(lambda m: m.graph.value_info.extend(values)),
        "too_large",
        ("values"),
        "structure",
    )
    opsets = [helper.make_opsetid("ai.onnx.ml", 1)] * 1000
    yield (
        "opsets.onnx",
        _changed(lambda m: m.opset_import.extend(opsets)),
        "too_large",
        ("operator sets"),
        "structure",
    )
    long = "x" * (artifact.MAX_DESCRIPTION_BYTES // 2)

    def describe(built: Any) -> None:
        built.doc_string = long
        built.metadata_props.add(key="note", value=long + "x")

    yield "descriptions.onnx", _changed(describe), "too_large", "descriptions", "structure"
    loud = model(graph([NODE("Shell", ["x"], ["logits"], name="<b>\x00" * 10**6, domain="evil")]))
    yield "long-name.onnx", loud, "custom_domain", "'<b>", "structure"


def _signatures() -> Iterator[Row]:
    """Other tensors than the model's."""
    wide = graph([NODE("Identity", ["x"], ["logits"])], outputs=[tensor("logits", [BATCH, 4])])
    yield "signature-wide.onnx", model(wide), "signature_mismatch", "float32.4.", "structure"
    half = graph(
        [NODE("Cast", ["x"], ["logits"], to=TensorProto.FLOAT16)],
        outputs=[tensor("logits", [BATCH, 3], TensorProto.FLOAT16)],
    )
    yield "signature-half.onnx", model(half), "signature_mismatch", "float16", "structure"
    fixed = graph([NODE("Identity", ["x"], ["logits"])], inputs=[tensor("x", [1, 4])])
    yield "signature-fixed.onnx", model(fixed), "signature_mismatch", "batch axis", "structure"
    doubled = _changed(lambda m: m.graph.output.append(m.graph.output[0]))
    yield "signature-doubled.onnx", doubled, "(malformed|signature_mismatch)", "logits", "structure"
    lie = model(graph([NODE("Identity", ["x"], ["logits"])]))
    yield "signature-lie.onnx", lie, "(load_failed|signature_mismatch)", "logits|output", "trial"


def _runs() -> Iterator[Row]:
    """What only shows when it is loaded and run."""
    nan = numpy_helper.from_array(np.full((4, 3), np.nan, dtype=np.float32), "w")
    poisoned = model(graph([NODE("MatMul", ["x", "w"], ["logits"])], initializers=[nan]))
    yield "nan.onnx", poisoned, "load_failed", "NaN", "trial"
    root = NODE("Sqrt", ["minus"], ["blow"])
    rooted = _answering(
        root, constants=[numpy_helper.from_array(np.array([-1], dtype=np.float32), "minus")]
    )
    yield "nan-computed.onnx", rooted, "load_failed", "NaN", "trial"
    zero = _answering(
        NODE("Div", ["one", "zero"], ["blow"], name="zero"),
        constants=[_i64("one", [1]), _i64("zero", [0])],
    )
    yield "zero.onnx", zero, "load_failed", "zero", "trial"
    shapes = model(
        graph(
            [NODE("MatMul", ["x", "w"], ["logits"], name="odd")],
            initializers=[numpy_helper.from_array(np.zeros((5, 3), dtype=np.float32), "w")],
        )
    )
    yield "shapes.onnx", shapes, "load_failed", "MatMul", "trial"
    yield "crash.onnx", _crashing(), "load_failed", "died during profile .SIGFPE", "trial"


def _hang(_: Path) -> bytes:
    """A loop of 2^40 rounds, none of which takes long."""
    body = helper.make_graph(
        [NODE("Add", ["state", "state"], ["next"]), NODE("Identity", ["go"], ["go_on"])],
        "body",
        [
            tensor("i", [], TensorProto.INT64),
            tensor("go", [], TensorProto.BOOL),
            tensor("state", [1]),
        ],
        [tensor("go_on", [], TensorProto.BOOL), tensor("next", [1])],
    )
    start = numpy_helper.from_array(np.zeros(1, dtype=np.float32), "start")
    loop = NODE("Loop", ["times", "", "start"], ["blow"], body=body)
    built = _answering(loop, constants=[_i64("times", 2**40), start])
    return bytes(built.SerializeToString())


def _memory(_: Path) -> bytes:
    """Sixteen values of a gibibyte, each of which may be held, but not all."""
    quarter = NODE("ConstantOfShape", ["size"], ["v0"])
    nodes = [NODE("Add", [f"v{n}", "v0"], [f"v{n + 1}"]) for n in range(15)]
    total = NODE("Sum", [f"v{n}" for n in range(16)], ["blow"], name="all")
    built = _answering(quarter, *nodes, total, constants=[_i64("size", [2**28])])
    return bytes(built.SerializeToString())


def _all() -> Iterator[Malice]:
    for name, content in _foreign():
        yield Malice(
            name=name, content=content, code="format_not_allowed", words="ONNX", stage="format"
        )
    for name, content in _polyglots():
        yield Malice(
            name=name, content=content, code="format_not_allowed", words="ONNX", stage="format"
        )
    for name, data, code, words, stage in _wires():
        yield Malice(
            name=name, content=lambda _, data=data: data, code=code, words=words, stage=stage
        )
    groups = (_outside, _operators, _wiring, _constants, _floods, _signatures, _runs)
    for name, built, code, words, stage in (row for group in groups for row in group()):
        yield Malice(
            name=name,
            content=lambda _, built=built: bytes(built.SerializeToString()),
            code=code,
            words=words,
            stage=stage,
        )
    yield Malice(
        name="memory.onnx",
        content=_memory,
        code="load_failed",
        words="memory|bad_alloc|died|allocate|did not end",
        stage="trial",
    )
    yield Malice(
        name="hang.onnx",
        content=_hang,
        code="load_failed",
        words="did not end within",
        stage="trial",
    )


ARTIFACTS = tuple(_all())
"""Every file; those that cost a trial most come last."""


# Evaluation sets: the product reads safetensors, and nothing else, as data


@dataclass(frozen=True, kw_only=True, slots=True)
class MaliceInData:
    """A file that is no evaluation set, and a word that the refusal holds."""

    name: str
    content: bytes
    words: str


def _tensors(header: object, body: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file with this header, as bytes or as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def _entry(start: int, end: int, shape: Sequence[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def _data() -> Iterator[tuple[str, bytes, str]]:
    labels = _entry(0, 8, [1], "I64")
    rows = _entry(8, 12, [1, 1])
    yield "empty", b"", "header has 0 bytes"
    yield "pickle", pickle.dumps({"labels": [1]}), "header"
    yield "zip", _zip(Path("canary"), "data.pkl"), "header"
    yield "no header", _tensors(b"", length=1 << 20), "header|Header"
    yield "header of 2^63 bytes", _tensors(b"{}", length=2**63), "eader"
    yield "header of 100 MB", _tensors(b"{}" + b" " * (101 << 20)), "eader"
    yield "header is no JSON", _tensors(b"{" * 64), "eader"
    yield "header of 100,000 levels", _tensors(b'{"a":' * 100_000), "eader"
    yield "header is not UTF-8", _tensors(b'{"\xff": 1}'), "eader"
    yield (
        "overlapping",
        _tensors({"labels": labels, "input.x": _entry(0, 8, [1, 2])}, bytes(8)),
        ".",
    )
    yield "behind the end", _tensors({"labels": labels, "input.x": rows}, bytes(8)), "."
    yield "a hole", _tensors({"labels": labels, "input.x": _entry(16, 20, [1, 1])}, bytes(20)), "."
    yield "backwards", _tensors({"labels": _entry(8, 0, [1], "I64")}, bytes(8)), "."
    yield "more bytes than shape", _tensors({"labels": _entry(0, 16, [1], "I64")}, bytes(16)), "."
    yield "fewer bytes than shape", _tensors({"labels": _entry(0, 8, [9], "I64")}, bytes(8)), "."
    yield "shape overflows", _tensors({"labels": _entry(0, 8, [2**62, 4], "I64")}, bytes(8)), "."
    yield "negative shape", _tensors({"labels": _entry(0, 8, [-1], "I64")}, bytes(8)), "."
    yield "unknown type", _tensors({"labels": _entry(0, 8, [1], "OBJECT")}, bytes(8)), "."
    yield "no rows", safetensors({"labels": np.zeros(0, dtype=np.int64)}), "empty"
    yield (
        "zero-size input",
        safetensors({"labels": np.zeros(1, np.int64), "x": np.zeros((0, 3))}),
        ("shape"),
    )
    yield "no labels", safetensors({"input.x": np.zeros((3, 1))}), "labels"
    yield "labels of another type", safetensors({"labels": np.zeros(3)}), "float64"
    yield "bytes behind", safetensors({"labels": np.zeros(3, dtype=np.int64)}) + b"x", "."
    twice = b'{"labels":%b,"labels":%b}' % ((json.dumps(labels).encode(),) * 2)
    yield "two of a name", _tensors(twice, bytes(8)), "'labels' twice"
    yield (
        "half precision",
        _tensors({"labels": labels, "input.x": _entry(8, 10, [1, 1], "BF16")}, bytes(10)),
        "bfloat16",
    )
    many = {f"t{number}": _entry(0, 0, [0]) for number in range(100_000)}
    yield "100,000 tensors", _tensors({"labels": labels} | many, bytes(8)), "."


EVALUATIONS = tuple(
    MaliceInData(name=name, content=content, words=words) for name, content, words in _data()
)
