"""Broken, hostile and unusual HTTP over a raw socket."""

import gzip
import json
import re
import time

import pytest

from app.access import ROUTES
from tests.edge import Edge
from tests.raw import Answer, assert_problem, request

VALID = b'{"model": "tiny", "inputs": [[1, 2, 3, 4]]}'
MALFORMED = {
    "empty": b"",
    "truncated": VALID[:-3],
    "truncated in a string": VALID[:8],
    "trailing bytes": VALID + b"x",
    "two documents": VALID + VALID,
    "invalid UTF-8": b'{"model": "\xff", "inputs": [1]}',
    "byte order mark": b"\xef\xbb\xbf" + VALID,
    "lone surrogate": b'{"model": "\\ud800", "inputs": [1]}',
    "NUL, escaped": b'{"model": "a\\u0000b", "inputs": [1]}',
    "NUL, raw": b'{"model": "a\x00b", "inputs": [1]}',
    "duplicate key": b'{"model": "tiny", "model": "tiny", "inputs": [1, 2, 3, 4]}',
    "duplicate key, spelled apart": b'{"model": "tiny", "inputs": [1], "\\u0069nputs": [1]}',
    "duplicate input": b'{"model": "tiny", "inputs": {"x": [1, 2, 3, 4], "x": [1, 2, 3, 4]}}',
    "duplicate key far down": b'{"model": "tiny", "inputs": [{"a": 1, "a": 2}]}',
    "duplicate key beside long numbers": b'{"model": ":", "inputs": [%s]}' % (b"1" * 400),
    "100,000 levels of lists": b'{"model": "tiny", "inputs": ' + b"[" * 100_000,
    "100,000 levels, closed": b'{"model":"tiny","inputs":' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    "100,000 levels of objects": b'{"a":' * 100_000,
    "1,000 levels of objects": b'{"inputs":' * 1000 + b"1" + b"}" * 1000,
    "NaN": b'{"model": "tiny", "inputs": [NaN, 1, 2, 3]}',
    "Infinity": b'{"model": "tiny", "inputs": [Infinity, 1, 2, 3]}',
    "minus Infinity": b'{"model": "tiny", "inputs": [-Infinity, 1, 2, 3]}',
    "1e400": b'{"model": "tiny", "inputs": [1e400, 1, 2, 3]}',
    "leading zero": b'{"model": "tiny", "inputs": [01, 1, 2, 3]}',
    "comment": b'{"model": "tiny", /* x */ "inputs": [1, 2, 3, 4]}',
    "trailing comma": b'{"model": "tiny", "inputs": [1, 2, 3, 4,]}',
    "single quotes": b"{'model': 'tiny', 'inputs': [1, 2, 3, 4]}",
    "a list": b"[1, 2, 3]",
    "a number": b"1",
    "null": b"null",
    "unknown key": b'{"model": "tiny", "inputs": [1, 2, 3, 4], "variant": "int8"}',
    "no inputs": b'{"model": "tiny"}',
    "no model": b'{"inputs": [1, 2, 3, 4]}',
    "model is null": b'{"model": null, "inputs": [1, 2, 3, 4]}',
    "model is a number": b'{"model": 1, "inputs": [1, 2, 3, 4]}',
    "model is a list": b'{"model": ["tiny"], "inputs": [1, 2, 3, 4]}',
}


OTHER = {"infer": "read", "read": "infer", "admin": "infer", "metrics": "infer"}
"""For each scope a key that has another one."""

FILLED = {"digest": "0" * 64, "id": "a1b2c3d4"}


def post(edge: Edge, body: bytes, *headers: tuple[str, str], target: str = "/infer") -> bytes:
    return request("POST", target, body, key=edge.key, headers=headers)


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_malformed_json_is_refused_with_400(edge: Edge, body: bytes) -> None:
    assert_problem(edge.infer(body, kind="malformed JSON"), 400, "malformed")
    edge.assert_alive()


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_control_routes_refuse_malformed_json_too(edge: Edge, body: bytes) -> None:
    answer = edge.send("malformed JSON, control", post(edge, body, target="/v1/keys"))
    assert answer.status in (400, 422)
    assert_problem(answer, answer.status, "malformed" if answer.status == 400 else "invalid")


def test_every_cut_of_a_valid_body_is_refused(edge: Edge) -> None:
    for end in range(len(VALID)):
        assert_problem(edge.infer(VALID[:end], kind="every cut"), 400, "malformed")
    edge.assert_alive()


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("GET", "/infer", "POST"),
        ("DELETE", "/infer", "POST"),
        ("PUT", "/v1/keys", "GET, POST"),
        ("PATCH", "/v1/models/tiny/variants", "GET, POST"),
        ("POST", "/healthz", "GET"),
        ("OPTIONS", "/infer", "POST"),
        ("TRACE", "/infer", "POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(
    edge: Edge, method: str, target: str, allow: str
) -> None:
    answer = edge.send("wrong method", request(method, target, key=edge.key))
    assert_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == allow


NOWHERE = (
    "/", "/nope", "/infer/", "/v1/models/", "//infer", "/v1/../infer", "/%00", "/%ff", "/v1/keys/",
    "/docs", "/redoc", "/.env", "/openapi.json/", "/infer%2f", "/<script>", "/@evil",
)  # fmt: skip


@pytest.mark.parametrize("target", NOWHERE)
def test_an_unknown_path_is_a_problem_document(edge: Edge, target: str) -> None:
    problem = assert_problem(
        edge.send("unknown path", request("GET", target, key=edge.key)), 404, "not-found"
    )
    assert "location" not in problem


OTHER_TYPES = (
    "text/plain", "text/plain; charset=utf-8", "application/xml", "multipart/form-data",
    "application/x-www-form-urlencoded", "image/gif", "application/jsonx", "x/y", "",
    "application/json, x/y",
)  # fmt: skip


@pytest.mark.parametrize("value", OTHER_TYPES)
def test_another_content_type_is_refused(edge: Edge, value: str) -> None:
    for target in ("/infer", "/v1/route"):
        data = post(edge, VALID, ("content-type", value), target=target)
        assert_problem(edge.send("content type", data), 415, "unsupported-media-type")


def test_a_missing_or_repeated_content_type_is_refused(edge: Edge) -> None:
    missing = post(edge, VALID).replace(b"content-type: application/json\r\n", b"")
    assert_problem(edge.send("content type", missing), 415, "unsupported-media-type")
    twice = [("content-type", "application/json")] * 2
    data = request("POST", "/infer", VALID, key=edge.key, headers=twice)
    assert_problem(edge.send("content type", data), 415, "unsupported-media-type")


@pytest.mark.parametrize("value", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_may_carry_parameters_and_any_case(edge: Edge, value: str) -> None:
    assert edge.send("valid", post(edge, VALID, ("content-type", value))).status == 200


def test_a_compressed_body_is_refused_before_it_is_inflated(edge: Edge) -> None:
    bomb = gzip.compress(b"0" * (64 << 20))
    assert len(bomb) < 1 << 17
    for encoding in ("gzip", "deflate", "br", "zstd", "identity, gzip"):
        data = post(edge, bomb, ("content-encoding", encoding))
        assert_problem(edge.send("compressed", data), 415, "unsupported-media-type")
    assert edge.send("valid", post(edge, VALID, ("content-encoding", "identity"))).status == 200


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.option("max_body_bytes")
def test_a_body_beyond_the_limit_is_refused_with_413(edge: Edge) -> None:
    body = b" " * (4 << 20) + b"x"
    assert_problem(edge.infer(body, kind="too large"), 413, "too-large")
    data = post(edge, chunked(body, 1 << 16), ("transfer-encoding", "chunked"))
    assert_problem(edge.send("too large", data), 413, "too-large")
    control = post(edge, body[: (1 << 20) + 1], target="/v1/route")
    assert_problem(edge.send("too large", control), 413, "too-large")
    edge.assert_alive()


def test_a_declared_length_beyond_the_limit_is_refused_at_once(edge: Edge) -> None:
    head = request("POST", "/infer", key=edge.key, headers=[("content-length", str(1 << 60))])
    started = time.monotonic()
    answer = edge.send(
        "too large", head.replace(b"\r\n\r\n", b"\r\ncontent-type: image/png\r\n\r\n")
    )
    assert answer.status in (413, 415)
    assert time.monotonic() - started < 1


def test_a_body_at_the_limit_is_read(edge: Edge) -> None:
    body = VALID + b" " * ((4 << 20) - len(VALID))
    assert edge.infer(body, kind="valid").status == 200


def test_chunks_of_any_size_are_put_together(edge: Edge) -> None:
    for size in (1, 7, 1000):
        data = post(edge, chunked(VALID, size), ("transfer-encoding", "chunked"))
        assert edge.send("valid", data).status == 200


@pytest.mark.parametrize(
    "head",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
        b"GET\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"get /healthz HTTP/1.1\r\n\r\n",
        b"BREW /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n: no name\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\na b: c\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nx: a\x00b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /infer HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /infer HTTP/1.1\r\ncontent-length: +1\r\n\r\n1",
        b"POST /infer HTTP/1.1\r\ncontent-length: 0x1\r\n\r\n1",
        b"POST /infer HTTP/1.1\r\ncontent-length: 1, 1\r\n\r\n1",
        b"POST /infer HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n12",
        b"POST /infer HTTP/1.1\r\ncontent-length: " + b"9" * 40 + b"\r\n\r\n1",
        b"POST /infer HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /infer HTTP/1.1\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        b"POST /infer HTTP/1.1\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused_and_the_connection_closed(edge: Edge, head: bytes) -> None:
    with edge.connect("not HTTP") as connection:
        connection.send(head)
        connection.finish()
        answer = connection.answer()
        if answer is not None:  # no whole request may also end without an answer
            assert 400 <= answer.status < 500, answer
            assert_problem(answer, answer.status, answer.json()["code"])
        assert connection.ended(3)
    edge.assert_alive()


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/infer"),
        ("POST", "/v1/route"),
        ("PUT", "/v1/blobs/" + "0" * 64),
        ("PATCH", "/v1/blobs/" + "0" * 64),
    ],
)
def test_a_length_of_thousands_of_digits_is_refused(edge: Edge, method: str, target: str) -> None:
    given = [("content-length", "0" * 5000 + "1"), ("upload-offset", "0")]
    for expects in ([], [("expect", "100-continue")]):
        data = request(method, target, b"x", key=edge.key, headers=given + expects)
        assert_problem(edge.send("not HTTP", data), 400, "malformed")


def test_a_request_has_one_host(edge: Edge) -> None:
    """RFC 9112, section 3.2; HTTP/1.0 knows no such header."""
    for data in (request("GET", "/healthz"), post(edge, VALID)):
        host = b"host: gearshift\r\n"
        assert data.count(host) == 1
        for hosts in (b"", host + host, host + b"host: other\r\n"):
            answer = edge.send("host", data.replace(host, hosts))
            assert_problem(answer, 400, "malformed")
            assert answer.headers["connection"] == "close"
    old = request("GET", "/healthz", version="1.0").replace(host, b"")
    assert edge.send("host", old).status == 200


def test_a_bad_chunk_size_is_refused(edge: Edge) -> None:
    for bad in (b"zz\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n", b"3\r\nabcd\r\n"):
        data = post(edge, bad, ("transfer-encoding", "chunked"))
        assert_problem(edge.send("not HTTP", data), 400, "malformed")
    edge.assert_alive()


def test_a_body_shorter_than_declared_ends_the_connection_without_an_answer(edge: Edge) -> None:
    with edge.connect("short body") as connection:
        connection.send(post(edge, VALID, ("content-length", str(len(VALID) + 1))))
        connection.close()
    edge.assert_alive()


def test_a_body_longer_than_declared_never_becomes_another_request(edge: Edge) -> None:
    smuggled = request("GET", "/v1/keys", key=edge.key)
    with edge.connect("long body") as connection:
        connection.send(post(edge, VALID + b"}", ("content-length", str(len(VALID)))))
        first, second = connection.answer(), connection.answer()
        assert first is not None and first.status == 200
        assert second is None
    with edge.connect("long body") as connection:
        connection.send(post(edge, VALID + smuggled, ("content-length", str(len(VALID)))))
        first, second = connection.answer(), connection.answer()
        assert first is not None and json.loads(first.body)["model"] == "tiny"
        assert second is not None and "keys" in second.json()  # an honest second request


def test_a_large_head_is_refused_with_431(edge: Edge) -> None:
    for size in (64 << 10, 256 << 10, 2 << 20):
        head = request("GET", "/healthz", headers=[("x-large", "x" * size)])
        assert_problem(edge.send("large head", head), 431, "headers-too-large")
        target = request("GET", "/healthz?" + "x" * size)
        assert_problem(edge.send("large head", target), 431, "headers-too-large")
    edge.assert_alive()


def test_a_large_head_in_small_pieces_is_refused_with_431(edge: Edge) -> None:
    with edge.connect("large head") as connection:
        connection.send(b"GET /healthz HTTP/1.1\r\nx-large: ")
        for _ in range(100):
            connection.send(b"x" * 1024)
        answer = connection.answer()
        assert answer is not None
        assert_problem(answer, 431, "headers-too-large")


def test_a_head_just_below_the_limit_is_read(edge: Edge) -> None:
    head = request("GET", "/healthz", headers=[("x-large", "x" * 60_000)])
    assert edge.send("valid", head).status == 200


def test_a_thousand_headers_are_refused_with_431(edge: Edge) -> None:
    for count, status in ((90, 200), (101, 431), (1000, 431)):
        many = [(f"x-{number}", "1") for number in range(count)]
        answer = edge.send("many headers", request("GET", "/healthz", headers=many))
        assert answer.status == status
        if status != 200:
            assert_problem(answer, 431, "too-many-headers")


def test_trailers_are_dropped_and_bounded(edge: Edge) -> None:
    body = chunked(VALID, 8)[:-2]
    harmless = post(edge, body + b"infer-nope: 1\r\n\r\n", ("transfer-encoding", "chunked"))
    assert edge.send("trailers", harmless).status == 200
    endless = b"".join(b"x-%d: %s\r\n" % (number, b"y" * 1000) for number in range(100))
    with edge.connect("trailers") as connection:
        connection.send(post(edge, body + endless, ("transfer-encoding", "chunked")))
        assert connection.answer() is not None
        assert connection.ended(3)
    edge.assert_alive()


@pytest.mark.option("head_timeout_s")
def test_a_slow_head_is_ended_at_its_deadline(edge: Edge) -> None:
    with edge.connect("slow") as connection:
        started = time.monotonic()
        for byte in b"GET /hea":
            connection.send(bytes([byte]))
            time.sleep(0.1)  # what is tested is slowness itself
        answer = connection.answer()
        assert answer is not None
        assert_problem(answer, 408, "head-timeout")
        assert connection.ended(1)
        assert time.monotonic() - started < 4
    edge.assert_alive()


def test_a_silent_connection_is_ended_at_its_deadline(edge: Edge) -> None:
    with edge.connect("slow") as connection:
        answer = connection.answer()
        assert answer is not None
        assert_problem(answer, 408, "head-timeout")


@pytest.mark.option("body_timeout_s")
@pytest.mark.parametrize("target", ["/infer", "/v1/route", "/v1/keys"])
def test_a_slow_body_is_ended_at_its_deadline(edge: Edge, target: str) -> None:
    with edge.connect("slow") as connection:
        started = time.monotonic()
        connection.send(post(edge, b"", ("content-length", "50"), target=target))
        for byte in VALID[:8]:
            connection.send(bytes([byte]))
            time.sleep(0.1)
        answer = connection.answer()
        assert answer is not None
        assert_problem(answer, 408, "body-timeout")
        assert connection.ended(4)
        assert time.monotonic() - started < 7
    edge.assert_alive()


def test_a_refused_caller_cannot_go_on_sending_for_ever(edge: Edge) -> None:
    with edge.connect("slow") as connection:
        connection.send(request("POST", "/infer", headers=[("content-length", "100000")]))
        answer = connection.answer()
        assert answer is not None
        assert_problem(answer, 401, "unauthenticated")
        started = time.monotonic()
        while not connection.ended(0.2) and time.monotonic() - started < 5:
            connection.send(b"x")
        assert time.monotonic() - started < 4


HOSTS = [
    "a/?x=",
    "evil.example",
    "a:b:c",
    "[",
    "[::1",
    "@evil",
    "a b",
    "",
    "\xff",
    "localhost:99999",
]


@pytest.mark.parametrize("host", HOSTS)
def test_the_host_header_decides_nothing(edge: Edge, host: str) -> None:
    def status(method: str, target: str, key: str) -> int:
        given = [("host", host)]
        answer = edge.send("host", request(method, target, key=key, headers=given))
        if answer.status >= 400:
            assert_problem(answer, answer.status, answer.json()["code"])
        assert "location" not in answer.headers
        return answer.status

    refused = {400}  # what is no host at all may be refused as such
    assert status("GET", "/v1/models", "") in {401} | refused
    assert status("GET", "/v1/keys", edge.keys["infer"]) in {403} | refused
    assert status("GET", "/nope", edge.key) in {404} | refused
    assert status("GET", "/v1/models/", edge.key) in {404} | refused
    assert status("GET", "/v1/models", edge.key) in {200} | refused


PROTECTED = sorted(route for route, need in ROUTES.items() if need != "public")
TARGETS = ("{path}", "http://evil.example{path}", "http://a@evil:1{path}", "{path}?x=@evil")


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_no_host_or_form_of_the_target_changes_who_may(edge: Edge, method: str, path: str) -> None:
    """BadHost: with each, a route judges the key as it does with none of them (P16)."""
    filled = re.sub(r"\{(\w+)\}", lambda found: FILLED.get(found[1], "tiny"), path)
    need = ROUTES[method, path]
    body = b"{}" if method in ("POST", "PUT", "PATCH") else b""
    callers = [("", 401)] if need == "any" else [("", 401), (edge.keys[OTHER[need]], 403)]
    for key, verdict in callers:
        for host in ("gearshift", *HOSTS):
            for form in TARGETS:
                data = request(
                    method, form.format(path=filled), body, key=key, headers=[("host", host)]
                )
                answer = edge.send("host", data)
                allowed = {verdict, 429} if verdict == 401 else {verdict}
                assert answer.status in allowed | ({400} if host != "gearshift" else set()), (
                    answer.status,
                    host,
                    form,
                )
                assert "location" not in answer.headers


def test_an_old_or_odd_but_valid_request_is_answered(edge: Edge) -> None:
    old = request("POST", "/infer", VALID, key=edge.key, version="1.0")
    answer = edge.send("unusual", old)
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    for target in ("http://anything/infer", "http://anything:1/infer", "/infer?x=1", "/infer#x"):
        assert edge.send("unusual", post(edge, VALID, target=target)).status == 200
    assert edge.send("unusual", b"\r\n" + post(edge, VALID)).status == 200
    folded = [("HOST", "x"), ("CONTENT-TYPE", "APPLICATION/JSON")]
    assert edge.send("unusual", post(edge, VALID, *folded)).status == 200


def test_expect_100_continue_is_answered_before_the_body(edge: Edge) -> None:
    data = post(edge, VALID, ("expect", "100-continue"))
    with edge.connect("unusual") as connection:
        connection.send(data[: -len(VALID)])
        assert (connection.line(), connection.line()) == (b"HTTP/1.1 100 Continue", b"")
        connection.send(VALID)
        answer = connection.answer()
        assert answer is not None and answer.status == 200


def test_a_refused_expectation_is_told_before_the_body(edge: Edge) -> None:
    with edge.connect("unusual") as connection:
        connection.send(
            request(
                "POST",
                "/infer",
                headers=[("expect", "100-continue"), ("content-length", "100")],
            )
        )
        answer = connection.answer()
        assert answer is not None
        assert_problem(answer, 401, "unauthenticated")


def test_an_upgrade_is_declined_and_the_request_answered(edge: Edge) -> None:
    """Java's HttpClient offers `h2c` with every request, bodies included."""
    offer = [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "x")]
    socket = [("connection", "upgrade"), ("upgrade", "websocket")]
    for given in (offer, socket):
        answer = edge.send("unusual", request("GET", "/healthz", headers=given))
        assert answer.status == 200
        assert edge.send("unusual", post(edge, VALID, *given)).status == 200
        data = post(edge, chunked(VALID, 5), ("transfer-encoding", "chunked"), *given)
        assert edge.send("unusual", data).status == 200
        with edge.connect("unusual") as connection:
            whole = post(edge, VALID, *given)
            connection.send(whole[:-10])
            time.sleep(0.05)  # the rest comes by itself
            connection.send(whole[-10:] + whole + post(edge, VALID))
            for _ in range(3):
                found = connection.answer()
                assert found is not None and found.status == 200


def test_pipelined_requests_are_answered_in_order(edge: Edge) -> None:
    many = [post(edge, b'{"model": "patient", "inputs": [%d]}' % number) for number in range(40)]
    with edge.connect("pipelined") as connection:
        connection.send(b"".join(many))
        for number in range(40):
            answer = connection.answer()
            assert answer is not None
            assert answer.json()["outputs"]["y"] == [[float(number)]]


def test_a_refusal_keeps_the_connection_for_the_next_request(edge: Edge) -> None:
    with edge.connect("pipelined") as connection:
        for _ in range(20):
            connection.send(post(edge, b"{"))
            refused = connection.answer()
            assert refused is not None
            assert_problem(refused, 400, "malformed")
            connection.send(post(edge, VALID))
            valid = connection.answer()
            assert valid is not None and valid.status == 200


def test_a_whole_request_before_garbage_is_answered_first(edge: Edge) -> None:
    slow = post(edge, b'{"model": "patient", "inputs": [200]}')
    with edge.connect("pipelined") as connection:
        connection.send(slow + b"\x00\x01garbage\r\n\r\n")
        answer = connection.answer()
        assert answer is not None and answer.json()["outputs"] == {"y": [[200.0]]}
        assert connection.answer() is None


def left_before_the_answer(edge: Edge, request: bytes, share: float) -> bool:
    """Send a request and leave after this share of the time that it has just taken.

    False where the answer came first, as it may on a busy machine.
    """
    started = time.monotonic()
    assert edge.send("valid", request).status == 200
    whole_s = time.monotonic() - started
    with edge.connect("left early") as connection:
        connection.send(request)
        return not connection.readable(share * whole_s)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_caller_that_leaves_frees_its_place(edge: Edge, share: float) -> None:
    slow = post(edge, b'{"model": "patient", "inputs": [1500]}')
    before = metric(edge, "gearshift_client_closed_total")
    assert any(left_before_the_answer(edge, slow, share) for _ in range(20))
    deadline = time.monotonic() + 5
    while metric(edge, "gearshift_client_closed_total") == before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert metric(edge, 'gearshift_queue_depth{model="patient"}') == 0
    left = time.monotonic()
    edge.assert_alive()
    assert time.monotonic() - left < 2


def test_callers_that_leave_in_the_queue_are_never_run(edge: Edge) -> None:
    slow = post(edge, b'{"model": "patient", "inputs": [1500]}')
    before = metric(edge, "gearshift_client_closed_total")
    connections = [edge.connect("left early") for _ in range(20)]
    for connection in connections:
        connection.send(slow)
    time.sleep(0.3)  # the first one runs, the others wait
    for connection in connections:
        connection.close()
    started = time.monotonic()
    edge.assert_alive()
    assert time.monotonic() - started < 5, "twenty calls would take longer"
    assert metric(edge, "gearshift_client_closed_total") == before + 20


def test_an_interrupted_body_is_counted_and_is_no_error(edge: Edge) -> None:
    before = metric(edge, "gearshift_client_closed_total")
    targets = ["/infer", "/v1/route", "/v1/keys"]
    for target in targets:
        with edge.connect("left early") as connection:
            connection.send(post(edge, VALID[:9], ("content-length", "500"), target=target))
            time.sleep(0.05)
    digest = "0" * 64
    put = [("content-length", "500"), ("content-type", "application/octet-stream")]
    with edge.connect("left early") as connection:
        blob = request("PUT", f"/v1/blobs/{digest}", b"abc", key=edge.key, headers=put)
        connection.send(blob)
        time.sleep(0.05)
    deadline = time.monotonic() + 5
    while metric(edge, "gearshift_client_closed_total") < before + len(targets) + 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert 'code="internal"' not in text_of_metrics(edge)


def text_of_metrics(edge: Edge) -> str:
    answer: Answer = edge.send("metrics", request("GET", "/metrics", key=edge.keys["metrics"]))
    return answer.body.decode()


def metric(edge: Edge, series: str) -> float:
    for line in text_of_metrics(edge).splitlines():
        if line.startswith(series + " "):
            return float(line.rsplit(" ", 1)[1])
    return 0.0
