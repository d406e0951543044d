"""Tensors as raw bytes against the running gateway (group T of the faults, and what is right)."""

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.edge import Edge
from tests.end_to_end.test_tensors import FUZZ
from tests.raw import Answer, assert_problem

ROW = np.array([[1, 2, 3, 4]], np.float32)
X = np.array([[[1, 2, 3], [4, 5, 6]]], np.float32)
IDS = np.array([[2**63 - 1, -(2**53) - 1]], np.int64)
FLAG = np.array([[True]])
OCTETS = "application/octet-stream"


def describe(name: str, array: np.ndarray, datatype: str) -> dict[str, Any]:
    return {
        "name": name,
        "shape": list(array.shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": array.nbytes},
    }


def pair(**more: Any) -> tuple[dict[str, Any], bytes]:
    """A described request to the model with three inputs, in an order of its own."""
    inputs = [describe("ids", IDS, "INT64"), describe("flag", FLAG, "BOOL")]
    inputs.append(describe("x", X, "FP32"))
    return {"inputs": inputs, **more}, IDS.tobytes() + FLAG.tobytes() + X.tobytes()


def send(
    edge: Edge,
    model: str,
    description: Any,
    data: bytes,
    kind: str = "binary",
    **headers: str,
) -> Answer:
    head = description if isinstance(description, bytes) else json.dumps(description).encode()
    given = {"content-type": OCTETS, "infer-model": model}
    if description != b"":
        given["inference-header-content-length"] = str(len(head))
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    return edge.infer(head + data, given, kind=kind)


def unpack(answer: Answer) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Description and tensors of a binary reply."""
    assert answer.headers["content-type"] == OCTETS
    length = int(answer.headers["inference-header-content-length"])
    description = json.loads(answer.body[:length])
    types = {"FP32": "<f4", "INT64": "<i8", "BOOL": "?"}
    found, at = {}, length
    for output in description["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        dtype = types[output["datatype"]]
        if size is None:
            found[output["name"]] = np.array(output["data"], dtype).reshape(output["shape"])
            continue
        raw = np.frombuffer(answer.body[at : at + size], dtype)
        found[output["name"]] = raw.reshape(output["shape"])
        at += size
    assert at == len(answer.body)
    return description, found


def test_the_rows_alone_are_enough_for_one_input(edge: Edge) -> None:
    both = np.concatenate([ROW, ROW * 2])
    plain = edge.infer(json.dumps({"model": "tiny", "inputs": both.tolist()}).encode())
    for headers in ({}, {"inference_header_content_length": "0"}):
        answer = send(edge, "tiny", b"", both.tobytes(), **headers)
        assert answer.status == 200
        assert answer.json()["predictions"] == plain.json()["predictions"]


def test_described_tensors_come_through_bit_exact(edge: Edge) -> None:
    description, data = pair(id="seven")
    answer = send(edge, "pair", description, data, accept=OCTETS)
    assert answer.status == 200, answer.body
    described, outputs = unpack(answer)
    assert (described["id"], described["model_name"]) == ("seven", "pair")
    assert described["model_version"] == answer.headers["infer-variant"].strip('"')
    assert np.array_equal(outputs["chosen"], IDS)
    assert np.allclose(outputs["log"], np.log(X))


@pytest.mark.parametrize("data", [X.tolist(), X[0].tolist(), X.reshape(-1).tolist()])
def test_a_tensor_may_have_its_values_in_the_description(edge: Edge, data: Any) -> None:
    description, _ = pair()
    listed = {"name": "x", "shape": list(X.shape), "datatype": "FP32", "data": data}
    description["inputs"].insert(1, listed)
    del description["inputs"][3]
    answer = send(edge, "pair", description, IDS.tobytes() + FLAG.tobytes(), accept=OCTETS)
    _, outputs = unpack(answer)
    assert np.array_equal(outputs["chosen"], IDS)
    assert np.allclose(outputs["log"], np.log(X))


def test_nan_in_outputs_stays_nan_in_bytes(edge: Edge) -> None:
    description, _ = pair()
    data = IDS.tobytes() + FLAG.tobytes() + (-X).tobytes()
    _, outputs = unpack(send(edge, "pair", description, data, accept=OCTETS))
    assert np.isnan(outputs["log"]).all()


def test_the_request_says_which_outputs_come_and_how(edge: Edge) -> None:
    description, data = pair(parameters={"binary_data_output": True})
    assert set(unpack(send(edge, "pair", description, data))[1]) == {"log", "chosen"}
    description, data = pair(
        outputs=[{"name": "chosen"}, {"name": "log", "parameters": {"binary_data": True}}]
    )
    described, outputs = unpack(send(edge, "pair", description, data))
    assert [("data" in output, output["name"]) for output in described["outputs"]] == [
        (False, "log"),
        (True, "chosen"),
    ]
    assert np.array_equal(outputs["chosen"], IDS)
    description, data = pair(outputs=[{"name": "chosen"}])
    answer = send(edge, "pair", description, data)
    assert answer.json()["outputs"] == {"chosen": IDS.tolist()}


def test_a_json_request_may_have_its_answer_in_bytes(edge: Edge) -> None:
    body = json.dumps({"model": "tiny", "inputs": ROW.tolist()}).encode()
    headers = {"content-type": "application/json", "accept": f"text/html, {OCTETS};q=0.9"}
    described, outputs = unpack(edge.infer(body, headers))
    assert outputs["logits"].shape == (1, 3) and described["model_name"] == "tiny"


def test_a_large_body_is_read_on_a_thread(edge: Edge) -> None:
    answer = send(edge, "tiny", b"", bytes(3 << 20))
    problem = assert_problem(answer, 422, "tensor-mismatch")
    assert "at most 32" in problem["detail"]
    edge.assert_alive()


def one(**changed: Any) -> tuple[dict[str, Any], bytes]:
    return {"inputs": [describe("x", ROW, "FP32") | changed]}, ROW.tobytes()


def values(data: Any, **changed: Any) -> tuple[dict[str, Any], bytes]:
    """A described request without bytes."""
    part = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": data}
    return {"inputs": [part | changed]}, b""


def sized(size: Any) -> dict[str, Any]:
    return {"parameters": {"binary_data_size": size}}


MISMATCHES: dict[str, tuple[str, tuple[Any, bytes], str]] = {
    "too few bytes": ("tiny", (one()[0], ROW.tobytes()[:-1]), "ends at byte"),
    "too many bytes": ("tiny", (one()[0], ROW.tobytes() + b"1"), "1 bytes follow"),
    "no bytes": ("tiny", (b"", b""), "the batch is empty"),
    "half a row": ("tiny", (b"", ROW.tobytes()[:-2]), "a row of input 'x', float32[4], has 16"),
    "too many rows": ("tiny", (b"", ROW.tobytes() * 33), "at most 32"),
    "size and shape disagree": ("tiny", one(**sized(15)), "has 16 bytes; binary_data_size is 15"),
    "no size": ("tiny", one(parameters={}), "binary_data_size is missing"),
    "true for a size": ("tiny", one(**sized(True)), "binary_data_size is True"),
    "a negative dimension": ("tiny", one(shape=[-1, 4]), "whole numbers"),
    "a fraction": ("tiny", one(shape=[1.0, 4]), "whole numbers"),
    "true for 1": ("tiny", one(shape=[True, 4]), "whole numbers"),
    "no shape": ("tiny", one(shape=None), "shape missing"),
    "2^63 rows": ("tiny", one(shape=[2**63 - 1, 4], **sized(16)), "bytes; binary_data_size is 16"),
    "a product that overflows": ("tiny", one(shape=[2**62, 4], **sized(0)), "binary_data_size"),
    "zero rows": ("tiny", ({"inputs": [describe("x", ROW[:0], "FP32")]}, b""), "batch is empty"),
    "another shape": ("tiny", one(shape=[2, 2]), "shape [2, 2]"),
    "no axes": ("tiny", one(shape=[]), "shape []"),
    "a thousand axes": ("tiny", one(shape=[1] * 1000), "['rows', 4] or one row"),
    "unknown datatype": ("tiny", one(datatype="FP8"), "known: BOOL, UINT8"),
    "big-endian": ("tiny", one(datatype=">f4"), "known: BOOL"),
    "bf16": ("tiny", one(datatype="BF16"), "known: BOOL"),
    "a datatype that is no text": ("tiny", one(datatype=["FP32"]), "known: BOOL"),
    "not the model's datatype": ("tiny", one(datatype="FP64"), "is FP64; the model takes FP32"),
    "NaN": ("tiny", (b"", struct.pack("<4f", 1, 2, float("nan"), 4)), "NaN or infinity"),
    "infinity": ("tiny", (b"", struct.pack("<4f", 1, 2, 3, float("-inf"))), "NaN or infinity"),
    "data and bytes": ("tiny", one(data=[1, 2, 3, 4]), "both data and binary_data_size"),
    "too little data": ("tiny", values([1, 2, 3]), "shape [3]; [1, 4] is declared"),
    "nested otherwise": ("tiny", values([[1, 2], [3, 4]]), "shape [2, 2]; [1, 4] is declared"),
    "ragged data": ("tiny", values([[1, 2], [3]]), "is no tensor"),
    "text for a number": ("tiny", values([1, 2, 3, "4"]), "JSON string"),
    "data that is no list": ("tiny", values("AAAA"), "a nested list is expected"),
    "beyond the datatype": ("tiny", values([1e300, 2, 3, 4]), "outside float32"),
    "data for zero rows": ("tiny", values([], shape=[0, 4]), "batch is empty"),
    "unknown input": ("tiny", one(name="y"), "missing: ['x'], unknown: ['y']"),
    "a long name": ("tiny", one(name="n" * 5000), "unknown: ['nnn"),
    "the same input twice": ("tiny", ({"inputs": one()[0]["inputs"] * 2}, b""), "'x' twice"),
    "missing input": ("pair", ({"inputs": pair()[0]["inputs"][:2]}, b""), "missing: ['x']"),
    "unknown output": ("tiny", (one()[0] | {"outputs": [{"name": "z"}]}, b""), "unknown: ['z']"),
    "2 for true": (
        "pair",
        (pair()[0], IDS.tobytes() + b"\x02" + X.tobytes()),
        "bytes other than 0 and 1",
    ),
    "unequal rows": (
        "pair",
        (
            {
                "inputs": [
                    describe("ids", np.repeat(IDS, 2, 0), "INT64"),
                    describe("flag", FLAG, "BOOL"),
                    describe("x", X, "FP32"),
                ]
            },
            IDS.tobytes() * 2 + FLAG.tobytes() + X.tobytes(),
        ),
        "unequal rows",
    ),
}


@pytest.mark.parametrize(("model", "sent", "says"), MISMATCHES.values(), ids=MISMATCHES)
def test_bytes_that_do_not_fit_are_refused_with_422(
    edge: Edge, model: str, sent: tuple[Any, bytes], says: str
) -> None:
    problem = assert_problem(send(edge, model, *sent), 422, "tensor-mismatch")
    assert says in problem["detail"] and "field" in problem
    assert len(problem["detail"]) < 1000
    edge.assert_alive()


MALFORMED: dict[str, tuple[str, tuple[Any, bytes], dict[str, str], str]] = {
    "no JSON": ("tiny", (b"{", b""), {}, "not JSON"),
    "a list": ("tiny", ([], b""), {}, "must be a JSON object"),
    "no inputs": ("tiny", ({}, b""), {}, "'inputs'"),
    "inputs by name": ("tiny", ({"inputs": {"x": 1}}, b""), {}, "'inputs'"),
    "an unknown key": ("tiny", (one()[0] | {"model": "tiny"}, b""), {}, "key 'model'"),
    "no name": ("tiny", one(name=None), {}, "has no name"),
    "a repeated key": ("tiny", (b'{"id": "1", "id": "2", "inputs": []}', b""), {}, "repeated"),
    "an id of the wrong kind": ("tiny", (one()[0] | {"id": 7}, b""), {}, "'id'"),
    "1 for true": (
        "tiny",
        (one()[0] | {"parameters": {"binary_data_output": 1}}, b""),
        {},
        "true or false",
    ),
    "several inputs without a description": ("pair", (b"", b"1234"), {}, "3 inputs"),
    "a length beyond the body": (
        "tiny",
        (b"", b"1"),
        {"inference_header_content_length": "2"},
        "the body has 1 bytes",
    ),
    "a length beyond the limit": (
        "tiny",
        (b"", bytes(200_000)),
        {"inference_header_content_length": "100000"},
        "at most 65536",
    ),
    "no length": ("tiny", (b"", b"1"), {"inference_header_content_length": "-1"}, "no length"),
    "a length for JSON": (
        "tiny",
        (b"{}", b""),
        {"content_type": "application/json"},
        "with application/octet-stream",
    ),
}


@pytest.mark.parametrize(("model", "sent", "headers", "says"), MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_description_is_refused_with_400(
    edge: Edge, model: str, sent: tuple[Any, bytes], headers: dict[str, str], says: str
) -> None:
    problem = assert_problem(send(edge, model, *sent, **headers), 400, "malformed")
    assert says in problem["detail"]
    edge.assert_alive()


def test_bytes_need_the_name_of_their_model(edge: Edge) -> None:
    answer = edge.infer(ROW.tobytes(), {"content-type": OCTETS})
    assert_problem(answer, 400, "malformed")
    assert_problem(send(edge, "nope", b"", b""), 404, "not-found")


@FUZZ
@given(data=st.data())
def test_no_damage_to_a_description_is_more_than_a_refusal(edge: Edge, data: st.DataObject) -> None:
    description, tensors = pair()
    damaged = bytearray(json.dumps(description).encode() + tensors)
    length = len(damaged) - len(tensors)
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=6)):
        damaged[place] = data.draw(st.integers(0, 255))
    length = max(0, length + data.draw(st.sampled_from([0, 0, 0, -1, 1])))
    headers = {"inference_header_content_length": str(length)}
    answer = send(edge, "pair", b"", bytes(damaged), "fuzz: binary", **headers)
    assert answer.status in (200, 400, 422)
    if answer.status != 200:
        assert_problem(answer, answer.status, answer.json()["code"])
