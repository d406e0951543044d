"""Payloads that parse and do not fit, pictures of every kind, and anything at all (group T)."""

import base64
import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.edge import TRIED, Edge
from tests.raw import Answer, assert_problem, request

FUZZ = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ROW = [1.0, 2.0, 3.0, 4.0]
PAIR = {"x": [[1, 1, 1], [1, 1, 1]], "ids": [1, 2], "flag": [True]}


def infer(edge: Edge, model: str, inputs: Any, kind: str = "tensors") -> Answer:
    return edge.infer(json.dumps({"model": model, "inputs": inputs}).encode(), kind=kind)


MISMATCHES: dict[str, tuple[str, Any, str]] = {
    "too few values": ("tiny", [1, 2, 3], "shape [3]"),
    "too many values": ("tiny", [[1, 2, 3, 4, 5]], "shape [1, 5]"),
    "too many axes": ("tiny", [[[1, 2, 3, 4]]], "shape [1, 1, 4]"),
    "a scalar": ("tiny", 1, "a nested list is expected"),
    "null": ("tiny", None, "a nested list is expected"),
    "true": ("tiny", True, "a nested list is expected"),
    "a text": ("tiny", "1,2,3,4", "a nested list is expected"),
    "an empty list": ("tiny", [], "the batch is empty"),
    "an empty row": ("tiny", [[]], "shape [1, 0]"),
    "empty objects": ("tiny", [{}, {}, {}, {}], "x'[0] is a JSON object"),
    "ragged": ("tiny", [[1, 2, 3, 4], [1, 2, 3]], "[1] has 3 items"),
    "ragged, leaf for list": ("tiny", [[1, 2, 3, 4], 5], "[1] has no list"),
    "ragged, list for leaf": ("tiny", [1, [2], 3, 4], "[1] has 1 items"),
    "text for a number": ("tiny", [["1", 2, 3, 4]], "x'[0][0] is a JSON string"),
    "true for 1": ("tiny", [[1, True, 3, 4]], "x'[0][1] is a JSON boolean"),
    "only true": ("tiny", [True, True, True, True], "x'[0] is a JSON boolean"),
    "null for a number": ("tiny", [[1, 2, None, 4]], "x'[0][2] is a JSON null"),
    "object for a number": ("tiny", [[1, 2, 3, {"a": 1}]], "x'[0][3] is a JSON object"),
    "beyond float32": ("tiny", [[1e39, 2, 3, 4]], "outside float32"),
    "70 levels": ("tiny", json.loads("[" * 70 + "1" + "]" * 70), "dimension"),
    "900 levels": ("tiny", json.loads("[" * 900 + "1" + "]" * 900), "dimension"),
    "900 levels of text": ("tiny", json.loads("[" * 900 + '"a"' + "]" * 900), "JSON string"),
    "too many rows": ("tiny", [ROW] * 33, "at most 32"),
    "a million values": ("tiny", [1] * 1_000_000, "shape [1000000]"),
    "a long text among short": ("tiny", ["a" * 1_000_000, *[""] * 100_000], "JSON string"),
    "unknown input": ("tiny", {"y": ROW}, "missing: ['x'], unknown: ['y']"),
    "missing input": ("pair", {"x": PAIR["x"], "ids": [1, 2]}, "missing: ['flag']"),
    "extra input": ("pair", {**PAIR, "z": 1}, "unknown: ['z']"),
    "no input": ("pair", {}, "missing: ['flag', 'ids', 'x']"),
    "unnamed inputs": ("pair", [[1]], "has 3 inputs; name them"),
    "__proto__": ("tiny", {"x": ROW, "__proto__": ROW}, "unknown: ['__proto__']"),
    "constructor": ("tiny", {"constructor": ROW}, "unknown: ['constructor']"),
    "emoji": ("tiny", {"🦊\u202ex": ROW}, "unknown: ['🦊"),
    "a long name": ("tiny", {"n" * 50_000: ROW}, "unknown: ['nnn"),
    "markup": ("tiny", {"<script>alert(1)</script>": ROW}, "<script>"),
    "an object for a tensor": ("tiny", {"x": {"0": 1}}, "a nested list is expected"),
    "fractions for integers": (
        "pair",
        {**PAIR, "ids": [1.5, 2]},
        "fractions or beyond 64 bits; int64",
    ),
    "2^63": ("pair", {**PAIR, "ids": [2**63, 2]}, "beyond 64 bits"),
    "2^63 alone": ("pair", {**PAIR, "ids": [2**63, 2**63]}, "outside int64"),
    "2^64": ("pair", {**PAIR, "ids": [2**64, 2]}, "int64 is expected"),
    "2^63 beside -1": ("pair", {**PAIR, "ids": [2**63, -1]}, "int64 is expected"),
    "true for an integer": ("pair", {**PAIR, "ids": [True, 2]}, "ids'[0] is a JSON boolean"),
    "1 for true": ("pair", {**PAIR, "flag": [1]}, "bool"),
    "text for true": ("pair", {**PAIR, "flag": ["true"]}, "bool"),
    "unequal rows": ("pair", {**PAIR, "ids": [[1, 2], [3, 4]]}, "unequal rows"),
    "rows beyond this model": (
        "pair",
        {"x": [PAIR["x"]] * 9, "ids": [[1, 2]] * 9, "flag": [[True]] * 9},
        "at most 8",
    ),
    "a picture for tensors": ("tiny", ["aGk="], "JSON string"),
    "too many pictures": ("picture", ["aGk="] * 33, "at most 32"),
}


@pytest.mark.parametrize(("model", "inputs", "says"), MISMATCHES.values(), ids=MISMATCHES)
def test_a_tensor_that_does_not_fit_is_refused_with_422(
    edge: Edge, model: str, inputs: Any, says: str
) -> None:
    answer = infer(edge, model, inputs)
    problem = assert_problem(answer, 422, "tensor-mismatch")
    assert says in problem["detail"]
    assert "field" in problem
    assert len(answer.body) < 3000
    edge.assert_alive()


def test_a_body_of_a_million_rows_is_refused(edge: Edge) -> None:
    body = b'{"model": "pair", "inputs": {"x": [], "ids": [' + b"[],"[:3] * 999_999 + b"[]"
    answer = edge.infer(body + b'], "flag": []}}', kind="tensors")
    assert_problem(answer, 422, "tensor-mismatch")
    edge.assert_alive()


@pytest.mark.parametrize(
    "name", ["", "nope", "TINY", "tiny ", "../tiny", "🦊", "tiny@int8", "a" * 50_000, "__proto__"]
)
def test_an_unknown_model_is_refused_with_404(edge: Edge, name: str) -> None:
    answer = infer(edge, name, ROW)
    assert_problem(answer, 404, "not-found")
    assert len(answer.body) < 3000


def test_one_row_may_leave_out_the_batch_axis(edge: Edge) -> None:
    forms = [ROW, [ROW], {"x": ROW}, {"x": [ROW]}]
    answers = [infer(edge, "tiny", form, "valid").json()["predictions"] for form in forms]
    assert all(answer == answers[0] for answer in answers)


def test_nan_in_outputs_is_written_as_null(edge: Edge) -> None:
    answer = infer(edge, "pair", {**PAIR, "x": [[-1, 0, 1], [1, 1, 1]]}, "valid")
    log = json.loads(answer.body, parse_constant=pytest.fail)["outputs"]["log"]
    assert log == [[[None, None, 0.0], [0.0, 0.0, 0.0]]]


def test_integers_and_booleans_come_through_bit_exact(edge: Edge) -> None:
    ids = [[2**63 - 1, -(2**63) + 1], [2**53 + 1, 0]]
    inputs = {"x": [PAIR["x"]] * 2, "ids": ids, "flag": [[True], [True]]}
    assert infer(edge, "pair", inputs, "valid").json()["outputs"]["chosen"] == ids


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from([0, 1, -1, 2**63, -(2**64), 10**400, 1e308, "AAAA"]),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["x", "ids", "flag", "", "é"]), inner, max_size=4)
    ),
    max_leaves=24,
)


@FUZZ
@given(model=st.sampled_from(["tiny", "pair", "picture"]), inputs=JSON)
def test_no_json_value_is_ever_more_than_a_refusal(edge: Edge, model: str, inputs: Any) -> None:
    answer = infer(edge, model, inputs, "fuzz: JSON inputs")
    assert answer.status in (200, 400, 413, 422)
    if answer.status != 200:
        assert_problem(answer, answer.status, answer.json()["code"])


@FUZZ
@given(
    content_type=st.sampled_from(["application/json", "image/png", "image/jpeg"]),
    body=st.binary(max_size=200)
    | st.text(alphabet='{}[]":,0123456789.eE+-\\utrfalsn x', max_size=60).map(str.encode),
)
def test_no_bytes_are_ever_more_than_a_refusal(edge: Edge, content_type: str, body: bytes) -> None:
    answer = edge.infer(
        body, {"content-type": content_type, "infer-model": "picture"}, kind="fuzz: bytes"
    )
    assert answer.status in (200, 400, 422)
    if answer.status != 200:
        assert_problem(answer, answer.status, answer.json()["code"])


# Pictures


def picture(
    mode: str = "L", kind: str = "PNG", size: tuple[int, int] = (8, 8), **how: Any
) -> bytes:
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], channels), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(out, kind, **how)
    return out.getvalue()


def converted(mode: str, kind: str = "PNG", **how: Any) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(picture("RGB", size=(16, 12)))).convert(mode).save(out, kind, **how)
    return out.getvalue()


def sixteen_bit() -> bytes:
    samples = (np.arange(64, dtype=np.uint16) * 1024).reshape(8, 8)
    out = io.BytesIO()
    Image.fromarray(samples).save(out, "PNG")
    return out.getvalue()


PNG, JPEG = picture(), picture(kind="JPEG")
GOOD = {
    "gray PNG": ("image/png", PNG),
    "gray JPEG": ("image/jpeg", JPEG),
    "RGB PNG": ("image/png", picture("RGB")),
    "RGB JPEG": ("image/jpeg", picture("RGB", "JPEG")),
    "progressive JPEG": ("image/jpeg", picture("RGB", "JPEG", size=(64, 48), progressive=True)),
    "RGBA": ("image/png", picture("RGBA")),
    "gray with alpha": ("image/png", converted("LA")),
    "palette": ("image/png", converted("P")),
    "palette with transparency": ("image/png", converted("P", transparency=b"\x00\x80\xff")),
    "one bit": ("image/png", converted("1")),
    "16 bits": ("image/png", sixteen_bit()),
    "CMYK": ("image/jpeg", converted("CMYK", "JPEG")),
    "large": ("image/png", picture("RGB", size=(600, 500))),
    "one pixel": ("image/png", picture(size=(1, 1))),
    "very wide": ("image/png", picture(size=(3000, 1))),
    "bytes after the end": ("image/png", PNG + b"more"),
}


@pytest.mark.parametrize(("content_type", "data"), GOOD.values(), ids=GOOD)
def test_every_kind_of_picture_is_answered(edge: Edge, content_type: str, data: bytes) -> None:
    headers = {"content-type": content_type, "infer-model": '"picture"'}
    direct = edge.infer(data, headers, kind="valid")
    assert direct.status == 200, direct.body
    for inputs in ([base64.b64encode(data).decode()], base64.b64encode(data).decode()):
        answer = infer(edge, "picture", inputs, "valid")
        assert answer.json()["predictions"] == direct.json()["predictions"]
    named = infer(edge, "picture", {"x": [base64.b64encode(data).decode()] * 2}, "valid")
    assert named.json()["predictions"] == direct.json()["predictions"] * 2


def chunk(name: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises this many pixels, one bit each, all zero."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    packed = zlib.compress(b"\x00" * min(64 << 20, (width // 8 + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    text = chunk(b"zTXt", b"a\x00\x00" + zlib.compress(b"x" * (64 << 20)))
    return PNG[:33] + text + PNG[33:]


GIF = picture(kind="GIF")
BAD = {
    "nothing": ("image/png", b"", 400),
    "text": ("image/png", b"hello", 400),
    "a GIF as PNG": ("image/png", GIF, 400),
    "a GIF as JPEG": ("image/jpeg", GIF, 400),
    "a JPEG as PNG": ("image/png", JPEG, 400),
    "a PNG as JPEG": ("image/jpeg", PNG, 400),
    "a BMP as PNG": ("image/png", picture(kind="BMP"), 400),
    "a TIFF as PNG": ("image/png", picture(kind="TIFF"), 400),
    "a WebP as JPEG": ("image/jpeg", picture("RGB", "WEBP"), 400),
    "signature only": ("image/png", PNG[:8], 400),
    "half a PNG": ("image/png", PNG[: len(PNG) // 2], 400),
    "half a JPEG": ("image/jpeg", JPEG[: len(JPEG) // 2], 400),
    "a wrong checksum": ("image/png", PNG[:29] + b"\x00\x00\x00\x00" + PNG[33:], 400),
    "no pixels": ("image/png", bomb(0, 0), 400),
    "30,000 × 30,000": ("image/png", bomb(30_000, 30_000), 422),
    "2^31 × 2^31": ("image/png", bomb(2**31 - 1, 2**31 - 1)[:200], 422),
    "12,000 × 8,000": ("image/png", bomb(12_000, 8_000), 422),
    "a text bomb": ("image/png", text_bomb(), 400),
}


@pytest.mark.parametrize(("content_type", "data", "status"), BAD.values(), ids=BAD)
def test_a_bad_picture_is_refused(edge: Edge, content_type: str, data: bytes, status: int) -> None:
    code = {400: "malformed", 422: "tensor-mismatch"}[status]
    headers = {"content-type": content_type, "infer-model": "picture"}
    assert_problem(edge.infer(data, headers, kind="bad pictures"), status, code)
    encoded = base64.b64encode(data).decode()
    if encoded and "as PNG" not in content_type and status == 422:
        assert_problem(infer(edge, "picture", [encoded], "bad pictures"), status, code)
    edge.assert_alive()


def test_pictures_share_one_limit(edge: Edge) -> None:
    many = [base64.b64encode(bomb(7000, 7000)).decode()] * 2
    problem = assert_problem(infer(edge, "picture", many, "bad pictures"), 422, "tensor-mismatch")
    assert "in one request" in problem["detail"]


def test_a_bad_picture_in_a_batch_is_named(edge: Edge) -> None:
    good = base64.b64encode(PNG).decode()
    for bad in ("!!!", "aGVsbG8=", "aGVsbG8", "é"):
        problem = assert_problem(
            infer(edge, "picture", [good, bad], "bad pictures"), 400, "malformed"
        )
        assert "inputs[1]" in problem["detail"]


def test_a_picture_needs_a_model_that_takes_one(edge: Edge) -> None:
    headers = {"content-type": "image/png"}
    assert_problem(edge.infer(PNG, headers, kind="bad pictures"), 400, "malformed")
    for model, status, code in (("tiny", 422, "tensor-mismatch"), ("nope", 404, "not-found")):
        answer = edge.infer(PNG, {**headers, "infer-model": model}, kind="bad pictures")
        assert_problem(answer, status, code)


@FUZZ
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG"]))
def test_no_damage_to_a_picture_is_more_than_a_refusal(
    edge: Edge, data: st.DataObject, kind: str
) -> None:
    damaged = bytearray(PNG if kind == "PNG" else JPEG)
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=6)):
        damaged[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    headers = {"content-type": f"image/{kind.lower()}", "infer-model": "picture"}
    answer = edge.infer(bytes(damaged), headers, kind="fuzz: damaged pictures")
    assert answer.status in (200, 400, 422)


def test_the_fuzzers_tried_hundreds_of_inputs() -> None:
    for kind in ("fuzz: JSON inputs", "fuzz: bytes", "fuzz: damaged pictures"):
        assert TRIED[kind] >= 200, (kind, TRIED[kind])


def test_large_pictures_do_not_hold_up_small_requests(edge: Edge) -> None:
    """Decoding on the event loop would make the small request wait for all ten."""
    large = bomb(7000, 7000)
    headers = [("content-type", "image/png"), ("infer-model", "picture")]
    connections = [edge.connect("valid") for _ in range(6)]
    for connection in connections:
        connection.send(request("POST", "/infer", large, key=edge.key, headers=headers))
    assert edge.send("valid", request("GET", "/healthz")).status == 200
    for connection in connections:
        answer = connection.answer()
        assert answer is not None and answer.status == 200, answer
        connection.close()
