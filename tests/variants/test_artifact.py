"""What an ONNX file must look like before anything loads it; files made by an adversary."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests import models
from tests.models import BATCH, graph, linear, model, tensor
from variants.artifact import (
    MAX_NODES,
    OPSETS,
    REJECTIONS,
    Signature,
    check_onnx,
    check_signature,
)
from variants.errors import ArtifactRejected
from variants.spec import TensorSpec


def refusal(path: Path) -> ArtifactRejected:
    with pytest.raises(ArtifactRejected) as raised:
        check_onnx(path)
    assert raised.value.code in REJECTIONS
    assert raised.value.field == "artifact"
    return raised.value


def refused(tmp_path: Path, built: Any) -> str:
    """The code with which a built model is refused."""
    return refusal(models.save(built, tmp_path / "model.onnx")).code


def identity(**shapes: Any) -> Any:
    """A model that hands `x` on, with other inputs or outputs."""
    return model(graph([helper.make_node("Identity", ["x"], ["logits"])], **shapes))


# What is allowed


def test_a_sound_file_has_a_signature_without_the_batch_axis(tiny_onnx: Path) -> None:
    spec = models.tiny_spec()
    assert check_onnx(tiny_onnx) == Signature(inputs=spec.inputs, outputs=spec.outputs)


@pytest.mark.parametrize("opset", OPSETS)
def test_every_allowed_opset_passes(tmp_path: Path, opset: int) -> None:
    built = linear()
    built.opset_import[0].version = opset
    check_onnx(models.save(built, tmp_path / "model.onnx"))


def test_quantised_operators_of_onnx_runtime_pass(tmp_path: Path) -> None:
    built = linear()
    built.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    check_onnx(models.save(built, tmp_path / "model.onnx"))


def test_initialisers_that_are_also_inputs_are_no_inputs(tmp_path: Path) -> None:
    built = linear()
    built.graph.input.append(tensor("weight", [4, 3]))
    found = check_onnx(models.save(built, tmp_path / "model.onnx"))
    assert [t.name for t in found.inputs] == ["x"]


# Structure


def test_external_data_is_refused_wherever_it_points(tmp_path: Path) -> None:
    for location in ("../../etc/passwd", "/etc/passwd", "weights.bin", ""):
        built = linear()
        weight = built.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
        assert refused(tmp_path, built) == "external_data"


def test_external_data_in_an_attribute_is_refused(tmp_path: Path) -> None:
    outside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    outside.external_data.add(key="location", value="weights.bin")
    constant = helper.make_node("Constant", [], ["c"])
    constant.attribute.append(helper.make_attribute("value", outside))
    nodes = [constant, helper.make_node("Add", ["x", "c"], ["logits"])]
    assert refused(tmp_path, model(graph(nodes))) == "external_data"


def test_external_data_in_a_sparse_tensor_is_refused(tmp_path: Path) -> None:
    built = linear()
    sparse = built.graph.sparse_initializer.add(dims=[4])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, dtype=np.float32), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, dtype=np.int64), "i"))
    sparse.values.external_data.add(key="location", value="/etc/passwd")
    assert refused(tmp_path, built) == "external_data"


def nested(node: Any) -> Any:
    """A model with a node inside the branches of an `If`."""
    branch = helper.make_graph([node], "branch", [], [tensor("inner", [BATCH, 3])])
    nodes = [
        helper.make_node("If", ["go"], ["logits"], then_branch=branch, else_branch=branch),
    ]
    go = numpy_helper.from_array(np.array(True), "go")
    return model(graph(nodes, initializers=[go]))


def test_foreign_operators_are_refused_at_any_depth(tmp_path: Path) -> None:
    foreign = helper.make_node("Shell", ["x"], ["logits"], domain="evil")
    assert refused(tmp_path, model(graph([foreign]))) == "custom_domain"
    assert refused(tmp_path, model(graph([foreign]), domains=["evil"])) == "custom_domain"
    inner = helper.make_node("Shell", ["x"], ["inner"], domain="evil")
    assert refused(tmp_path, nested(inner)) == "custom_domain"


def test_functions_of_its_own_are_refused(tmp_path: Path) -> None:
    function = helper.make_function(
        "ai.onnx",
        "Mine",
        ["a"],
        ["b"],
        [helper.make_node("Identity", ["a"], ["b"])],
        [helper.make_opsetid("", 20)],
    )
    built = linear()
    built.functions.append(function)
    assert refused(tmp_path, built) == "custom_domain"


def test_training_graphs_are_refused(tmp_path: Path) -> None:
    built = linear()
    built.training_info.add().algorithm.CopyFrom(built.graph)
    assert refused(tmp_path, built) == "malformed"


@pytest.mark.parametrize("opset", [1, OPSETS.start - 1, OPSETS.stop, 99, 2**63 - 1, -1])
def test_other_opsets_are_refused(tmp_path: Path, opset: int) -> None:
    built = linear()
    built.opset_import[0].version = opset
    assert refused(tmp_path, built) == "opset_not_allowed"


def test_a_second_opset_does_not_hide_the_first(tmp_path: Path) -> None:
    built = linear()
    built.opset_import.append(helper.make_opsetid("", OPSETS.start - 1))
    assert refused(tmp_path, built) == "opset_not_allowed"


def test_unknown_ir_versions_are_malformed(tmp_path: Path) -> None:
    built = linear()
    built.ir_version = 10_000
    assert refused(tmp_path, built) == "malformed"


@pytest.mark.parametrize(
    ("operator", "opset", "domain"),
    [
        ("DoesNotExist", 20, ""),
        ("Gelu", 18, ""),  # came with opset 20
        ("Upsample", 18, ""),  # went with opset 10
        ("Shell", 1, "ai.onnx.ml"),
    ],
)
def test_an_operator_that_the_opset_lacks_is_named_with_its_node(
    tmp_path: Path, operator: str, opset: int, domain: str
) -> None:
    first = helper.make_node("Identity", ["x"], ["same"])
    wrong = helper.make_node(operator, ["same"], ["logits"], domain=domain)
    domains = [domain] if domain else []
    built = model(graph([first, wrong]), opset=20 if domain else opset, domains=domains)
    found = refusal(models.save(built, tmp_path / "wrong.onnx"))
    assert found.code == "operator_not_allowed"
    of = f" of {domain}" if domain else ""
    assert str(found) == f"node 1, operator {operator}, opset {opset}{of} is not allowed"


def test_a_cyclic_graph_is_malformed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Identity", ["b"], ["logits"]),
    ]
    assert refused(tmp_path, model(graph(nodes))) == "malformed"


def test_a_constant_of_huge_shape_is_too_large(tmp_path: Path) -> None:
    for dims in ([2**40], [2**31, 2**31], [2**62] * 1000):
        huge = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"\0" * 4)
        built = linear()
        built.graph.initializer.append(huge)
        assert refused(tmp_path, built) == "too_large"
        constant = helper.make_node("Constant", [], ["c"])
        constant.attribute.append(helper.make_attribute("value", huge))
        nodes = [constant, helper.make_node("Add", ["x", "c"], ["logits"])]
        assert refused(tmp_path, model(graph(nodes))) == "too_large"


@pytest.mark.parametrize("dims", [[-1], [-2, -3], [2**62, -4], [0, -1]])
def test_negative_dimensions_are_malformed(tmp_path: Path, dims: list[int]) -> None:
    built = linear()
    built.graph.initializer.append(
        TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"\0" * 24)
    )
    assert refused(tmp_path, built) == "malformed"


def test_data_of_another_size_than_the_shape_is_malformed(tmp_path: Path) -> None:
    built = linear()
    built.graph.initializer[0].raw_data += b"\0"
    assert refused(tmp_path, built) == "malformed"
    built = linear()
    built.graph.initializer[0].dims[0] = 2**28
    assert refused(tmp_path, built) == "malformed"


def test_too_many_nodes_are_too_large(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["logits"])] * (MAX_NODES + 1)
    assert refused(tmp_path, model(graph(nodes))) == "too_large"


def test_a_file_beyond_the_largest_size_is_not_even_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)
    assert refusal(path).code == "too_large"


# Signature


@pytest.mark.parametrize(
    "built",
    [
        identity(inputs=[tensor("x", [1, 4])]),
        identity(outputs=[tensor("logits", [1, 4])]),
        identity(inputs=[tensor("x", [BATCH, "width"])]),
        identity(inputs=[tensor("x", [BATCH, 0])]),
        identity(inputs=[tensor("x", [BATCH, -4])]),
        identity(inputs=[tensor("x", [])]),
        identity(inputs=[tensor("x", [BATCH, 4], TensorProto.STRING)]),
        identity(inputs=[tensor("x", [BATCH, 4], TensorProto.BFLOAT16)]),
        identity(inputs=[helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)]),
    ],
    ids=[
        "static batch in",
        "static batch out",
        "dynamic inner axis",
        "empty axis",
        "negative axis",
        "scalar",
        "strings",
        "bfloat16",
        "sequence",
    ],
)
def test_tensors_that_cannot_be_served_are_refused(tmp_path: Path, built: Any) -> None:
    assert refused(tmp_path, built) == "signature_mismatch"


def test_a_tensor_without_a_shape_or_type_is_refused(tmp_path: Path) -> None:
    built = identity(inputs=[helper.make_tensor_value_info("x", TensorProto.FLOAT, None)])
    assert refused(tmp_path, built) in {"malformed", "signature_mismatch"}
    built = linear()
    built.graph.input[0].type.tensor_type.elem_type = 99
    assert refused(tmp_path, built) in {"malformed", "signature_mismatch"}
    built.graph.input[0].ClearField("type")
    assert refused(tmp_path, built) in {"malformed", "signature_mismatch"}


X, Y = (TensorSpec(name=name, dtype="float32", shape=(2,)) for name in "xy")


def test_a_signature_may_name_its_tensors_in_any_order() -> None:
    check_signature(Signature(inputs=(X, Y), outputs=(X, Y)), (Y, X), (Y, X))


@pytest.mark.parametrize(
    "other",
    [
        (X,),
        (X, Y, TensorSpec(name="z", dtype="float32", shape=(2,))),
        (X, TensorSpec(name="y", dtype="float16", shape=(2,))),
        (X, TensorSpec(name="y", dtype="float32", shape=(3,))),
        (X, TensorSpec(name="Y", dtype="float32", shape=(2,))),
    ],
    ids=["missing", "extra", "dtype", "shape", "name"],
)
def test_another_signature_than_the_models_is_refused_with_both(
    other: tuple[TensorSpec, ...],
) -> None:
    for found in (Signature(inputs=other, outputs=(X,)), Signature(inputs=(X, Y), outputs=other)):
        with pytest.raises(ArtifactRejected, match=r"x float32\[2\]") as raised:
            check_signature(found, (X, Y), (X,) if found.inputs == other else (X, Y))
        assert raised.value.code == "signature_mismatch"


# Damage

SOUND = linear().SerializeToString()
NESTED = nested(helper.make_node("Identity", ["x"], ["inner"])).SerializeToString()


def survives(path: Path, data: bytes) -> None:
    """Damaged bytes are accepted or refused, and nothing else happens."""
    path.write_bytes(data)
    try:
        check_onnx(path)
    except ArtifactRejected as error:
        assert error.code in REJECTIONS
        assert str(error)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to write over."""
    return tmp_path_factory.mktemp("damage") / "model.onnx"


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=256))
def test_random_bytes_are_refused(scratch: Path, data: bytes) -> None:
    scratch.write_bytes(data)
    refusal(scratch)


def test_a_file_cut_at_any_byte_is_accepted_whole_or_refused(scratch: Path) -> None:
    for length in range(len(SOUND)):
        survives(scratch, SOUND[:length])


@settings(max_examples=600, deadline=None)
@given(
    sound=st.sampled_from([SOUND, NESTED]),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=8),
)
@example(sound=SOUND, flips=[(0.0, 255)])
def test_flipped_bits_are_accepted_or_refused(
    scratch: Path, sound: bytes, flips: list[tuple[float, int]]
) -> None:
    data = bytearray(sound)
    for where, mask in flips:
        data[int(where * len(data))] ^= mask
    survives(scratch, bytes(data))


@settings(max_examples=200, deadline=None)
@given(
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    inserted=st.binary(max_size=16),
)
def test_spliced_bytes_are_accepted_or_refused(
    scratch: Path, cut: tuple[float, float], inserted: bytes
) -> None:
    start, stop = sorted(int(share * len(NESTED)) for share in cut)
    survives(scratch, NESTED[:start] + inserted + NESTED[stop:])


def test_deeply_nested_graphs_are_refused(tmp_path: Path) -> None:
    def inside(field: int, data: bytes) -> bytes:
        """The data as one length-delimited protobuf field."""
        length, size = len(data), bytearray()
        while length > 127:
            size.append(length & 127 | 128)
            length >>= 7
        return bytes([field << 3 | 2, *size, length]) + data

    level = b""
    for _ in range(200):
        level = inside(1, inside(5, inside(6, level)))  # graph.node.attribute.g
    path = tmp_path / "model.onnx"
    path.write_bytes(SOUND + inside(7, level))
    assert refusal(path).code in {"format_not_allowed", "malformed"}
