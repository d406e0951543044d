"""What headers may ask for, and how each refusal names the one at fault (group H)."""

import json
from typing import Any

import http_sf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.edge import TRIED, Edge
from tests.raw import Answer, assert_problem, request

BODY = b'{"model": "tiny", "inputs": [1, 2, 3, 4]}'


def infer(edge: Edge, *headers: tuple[str, str], body: bytes = BODY) -> Answer:
    data = request("POST", "/infer", body, key=edge.key, headers=headers)
    return edge.send("headers", data)


def fields(answer: Answer, name: str) -> dict[str, object]:
    """A dictionary field of a reply, its values without parameters."""
    parsed: Any = http_sf.parse(answer.headers[name].encode(), tltype="dictionary")
    return {key: value[0] for key, value in parsed.items()}


NUMBERS = (
    "Infer-Max-Latency-Ms",
    "Infer-Max-Cost",
    "Infer-Min-Accuracy",
    "Infer-Max-Accuracy-Drop",
)
NO_NUMBERS = (
    "", "-1", "-0.001", "NaN", "nan", "inf", "Infinity", "1e3", "1e309", "10ms", "$5", "5%",
    "1, 2", "1,2", "(1 2)", "1.", ".5", "+1", "0x10", "1_000", "1.2345", "1" * 16, '"5"', "?1",
    ":aGk=:", "@1700000000", "true", "1;unknown", "1;soft=1", "1;soft=yes", "1;;", "1 2", "\xff",
)  # fmt: skip
MALFORMED = [
    *((name, value) for name in NUMBERS for value in NO_NUMBERS),
    ("Infer-Max-Latency-Ms", "0"),
    ("Infer-Max-Latency-Ms", "5;pctl=49"),
    ("Infer-Max-Latency-Ms", "5;pctl=100"),
    ("Infer-Max-Latency-Ms", "5;pctl=99.5"),
    ("Infer-Max-Latency-Ms", "5;pctl"),
    ("Infer-Max-Latency-Ms", "5;point"),
    ("Infer-Max-Cost", "5;pctl=99"),
    ("Infer-Min-Accuracy", "0.5;point=1"),
    ("Infer-Objective", "speed"),
    ("Infer-Objective", "Accuracy"),
    ("Infer-Objective", "cost, latency"),
    ("Infer-Objective", "cost;soft"),
    ("Infer-Objective", "weighted"),
    ("Infer-Objective", "weighted;speed=1"),
    ("Infer-Objective", "weighted;accuracy=-1"),
    ("Infer-Objective", "weighted;accuracy=0"),
    ("Infer-Objective", "weighted;accuracy"),
    ("Infer-Objective", '"cost"'),
    ("Infer-Objective", "?1"),
    ("Infer-Variants", ""),
    ("Infer-Variants", "1, 2"),
    ("Infer-Variants", '("int8")'),
    ("Infer-Variants", '"int8" "fp32"'),
    ("Infer-Variants", '"int8";soft'),
    ("Infer-Variants", '"int8'),
    ("Infer-Variants", "?1"),
    ("Infer-Variants", '%"f%c3%bc"'),
    ("Infer-Model", '"tiny", "tiny"'),
    ("Infer-Model", '"tiny";v=1'),
    ("Infer-Model", "1"),
    ("Infer-Model", "tiny model"),
    ("Infer-Explain", "1"),
    ("Infer-Explain", "true"),
    ("Infer-Explain", "?2"),
    ("Infer-Cascade", "yes"),
    ("Infer-Explain", "?1;x"),
    ("Prefer", "handling=maybe"),
    ("Prefer", "handling"),
    ("Prefer", "handling=strict, handling=lenient"),
    ("Infer-Max-Price", "1"),
    ("Infer-Variant", '"int8"'),
    ("Infer-", "1"),
    ("Infer-" + "X" * 1000, "1"),
]


@pytest.mark.parametrize(
    ("name", "value"), MALFORMED, ids=[f"{n[:24]}: {v[:20]!r}" for n, v in MALFORMED]
)
def test_a_malformed_or_unknown_header_is_refused_with_400(
    edge: Edge, name: str, value: str
) -> None:
    problem = assert_problem(infer(edge, (name, value)), 400, "malformed")
    assert problem["field"] == name[:80].title()
    assert name[:80].lower() in problem["detail"].lower()
    dry = request("POST", "/v1/route", b'{"model": "tiny"}', key=edge.key, headers=[(name, value)])
    assert_problem(edge.send("headers, dry run", dry), 400, "malformed")


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, "1") for name in NUMBERS]
    + [("Infer-Model", "tiny"), ("Infer-Objective", "cost"), ("Infer-Explain", "?1")]
    + [("Infer-Variants", '"int8"')],
)
def test_a_repeated_header_is_refused_with_400(edge: Edge, name: str, value: str) -> None:
    problem = assert_problem(infer(edge, (name, value), (name.upper(), value)), 400, "malformed")
    assert "repeated" in problem["detail"] and problem["field"] == name


def test_the_model_may_stand_in_header_or_body_and_must_agree(edge: Edge) -> None:
    bare = b'{"inputs": [1, 2, 3, 4]}'
    for value in ('"tiny"', "tiny"):
        assert infer(edge, ("Infer-Model", value), body=bare).status == 200
        assert infer(edge, ("Infer-Model", value)).status == 200
    problem = assert_problem(infer(edge, ("Infer-Model", "pair")), 400, "malformed")
    assert "disagree" in problem["detail"]


INFEASIBLE = [
    ("Infer-Min-Accuracy", "1.01", "min_accuracy"),
    ("Infer-Min-Accuracy", "1.01;point", "min_accuracy"),
    ("Infer-Max-Cost", "0", "max_cost"),
    ("Infer-Max-Latency-Ms", "0.001", "max_latency"),
    ("Infer-Max-Latency-Ms", "0.001;pctl=50", "max_latency"),
]


@pytest.mark.parametrize(("name", "value", "bound"), INFEASIBLE)
def test_an_impossible_budget_is_refused_with_the_nearest_that_is_possible(
    edge: Edge, name: str, value: str, bound: str
) -> None:
    answer = infer(edge, (name, value))
    problem = assert_problem(answer, 422, "constraints-infeasible")
    assert answer.headers["x-should-retry"] == "false"
    assert problem["binding"] == bound
    assert {c["variant"] for c in problem["candidates"]} == {"fp32", "int8"}
    assert all(c["rejections"] and not c["feasible"] for c in problem["candidates"])
    relaxation = problem["relaxation"]
    assert relaxation["bound"] == bound and relaxation["variant"] in ("fp32", "int8")
    assert relaxation["sentence"] in problem["detail"]
    past = edge.send(
        "headers", request("GET", f"/v1/decisions/{problem['decision_id']}", key=edge.key)
    )
    assert past.json()["outcome"] == "infeasible" and past.json()["variant"] is None


@pytest.mark.parametrize(("name", "value", "bound"), INFEASIBLE)
def test_a_lenient_caller_gets_the_closest_variant_and_is_told_what_it_breaks(
    edge: Edge, name: str, value: str, bound: str
) -> None:
    answer = infer(edge, (name, value), ("Prefer", "handling=lenient"))
    assert answer.status == 200, answer.body
    content = answer.json()
    assert content["degraded"] is True and content["violated"] == [bound]
    assert answer.headers["preference-applied"] == "handling=lenient"
    assert str(fields(answer, "infer-decision")["reason"]) == "fallback"
    soft = infer(edge, (name, f"{value};soft"))
    assert soft.status == 200 and soft.json()["violated"] == [bound]


def test_what_a_relaxation_says_is_enough(edge: Edge) -> None:
    for name, value, _ in INFEASIBLE:
        if "Latency" in name:
            continue  # what was measured a moment ago need not hold a moment later
        relaxation = infer(edge, (name, value)).json()["relaxation"]
        parameter = value.partition(";")[1] + value.partition(";")[2]
        answer = infer(edge, (name, f"{relaxation['needed']:.3f}{parameter}"))
        assert answer.status == 200, (name, relaxation, answer.body)
        assert answer.json()["variant"] == relaxation["variant"]


def test_strict_handling_is_echoed_and_other_preferences_are_ignored(edge: Edge) -> None:
    for value in ("handling=strict", 'respond-async, x="a, handling=lenient", handling="strict"'):
        answer = infer(edge, ("Prefer", value))
        assert answer.headers["preference-applied"] == "handling=strict"
    assert "preference-applied" not in infer(edge, ("Prefer", "wait=5")).headers


@pytest.mark.option("max_latency_s")
def test_a_deadline_beyond_the_longest_is_clamped_and_echoed(edge: Edge) -> None:
    for value in ("20000.001", "60000", "999999999999"):
        assert (
            float(infer(edge, ("Infer-Max-Latency-Ms", value)).headers["infer-max-latency-ms"])
            == 20000
        )
    assert "infer-max-latency-ms" not in infer(edge, ("Infer-Max-Latency-Ms", "20000")).headers


def test_a_deadline_that_passes_in_the_queue_is_504_and_the_work_never_runs(edge: Edge) -> None:
    slow = request("POST", "/infer", b'{"model": "patient", "inputs": [1500]}', key=edge.key)
    with edge.connect("headers") as connection:
        connection.send(slow)
        codes = set()
        for _ in range(5):
            quick = request(
                "POST",
                "/infer",
                b'{"model": "patient", "inputs": [1]}',
                key=edge.key,
                headers=[("Infer-Max-Latency-Ms", "200")],
            )
            with edge.connect("headers") as other:
                other.send(quick)
                answer = other.answer()
            assert answer is not None and answer.status in (200, 503, 504)
            if answer.status != 200:
                codes.add(assert_problem(answer, answer.status, answer.json()["code"])["code"])
        assert codes <= {"overloaded", "deadline-passed"} and codes
        whole = connection.answer()
        assert whole is not None and whole.status == 200
    edge.assert_alive()


def test_a_pinned_variant_is_the_one_that_answers(edge: Edge) -> None:
    for name in ("fp32", "int8"):
        answer = infer(edge, ("Infer-Variants", name))
        assert answer.json()["variant"] == name
        assert answer.headers["infer-variant"] == f'"{name}"'
        assert str(fields(answer, "infer-decision")["reason"]) == "pinned"


def test_an_unknown_pin_is_404_and_an_inactive_one_is_409(edge: Edge) -> None:
    for value in (
        '"nope"',
        '"fp32", "nope"',
        '"' + "x" * 5000 + '"',
        '"../fp32"',
    ):
        assert_problem(infer(edge, ("Infer-Variants", value)), 404, "not-found")
    assert_problem(infer(edge, ("Infer-Variants", '"old"')), 409, "variant-disabled")
    both = infer(edge, ("Infer-Variants", '"old", "int8"'))
    assert both.status == 200 and both.json()["variant"] == "int8"


def test_every_reply_names_variant_reason_and_both_costs(edge: Edge) -> None:
    answer = infer(edge, ("Infer-Min-Accuracy", "0.1"), ("Infer-Explain", "?1"))
    content = answer.json()
    decision, predicted = fields(answer, "infer-decision"), fields(answer, "infer-predicted")
    actual = fields(answer, "infer-actual")
    variant: Any = http_sf.parse(answer.headers["infer-variant"].encode(), tltype="item")
    assert variant == (content["variant"], {})
    assert {"reason", "feasible", "considered", "id"} == decision.keys()
    assert {"latency-ms", "cost", "accuracy"} == predicted.keys()
    assert {"latency-ms", "cost"} == actual.keys()
    assert content["decision"]["id"] == decision["id"]
    assert [c["variant"] for c in content["decision"]["candidates"]] == ["fp32", "int8"]
    timing = answer.headers["server-timing"]
    assert [part.partition(";")[0] for part in timing.split(", ")] == ["queue", "run", "total"]
    record = edge.send("headers", request("GET", f"/v1/decisions/{decision['id']}", key=edge.key))
    assert record.json()["variant"] == content["variant"]
    assert record.json()["total_ms"] > 0


def test_the_default_objective_is_the_first_that_is_not_constrained(edge: Edge) -> None:
    def objective(*headers: tuple[str, str]) -> str:
        found: str = infer(edge, *headers, ("Infer-Explain", "?1")).json()["decision"]["objective"]
        return found

    accuracy, cost, latency = (
        ("Infer-Min-Accuracy", "0"),
        ("Infer-Max-Cost", "1000000"),
        ("Infer-Max-Latency-Ms", "10000"),
    )
    assert objective() == "accuracy"
    assert objective(accuracy) == "cost"
    assert objective(accuracy, cost) == "latency"
    assert objective(accuracy, cost, latency) == "accuracy"
    assert objective(("Infer-Objective", "latency")) == "latency"
    weighted = "weighted;accuracy=0.7;cost=0.3"
    assert objective(("Infer-Objective", weighted)) == weighted


def test_a_priority_that_makes_no_sense_is_ignored_as_its_standard_asks(edge: Edge) -> None:
    for value in ("u=0", "u=7, i", "u=9", "u=-1", "u=?1", "high", "u=(1 2)", "=", "u=1.5", "\xff"):
        assert infer(edge, ("Priority", value)).status == 200


def test_request_ids_are_echoed_if_they_are_harmless(edge: Edge) -> None:
    assert infer(edge, ("X-Request-Id", "abc-123")).headers["x-request-id"] == "abc-123"
    for value in ("a b", "x" * 129, "<script>", "", "a\tb", "é"):
        found = infer(edge, ("X-Request-Id", value)).headers["x-request-id"]
        assert found != value and len(found) < 40
    refused = infer(edge, ("X-Request-Id", "abc"), ("Infer-Nope", "1"))
    assert refused.json()["request_id"] == refused.headers["x-request-id"] == "abc"


OTHERS = (
    "Infer-Model", "Infer-Objective", "Infer-Variants", "Infer-Explain", "Prefer", "Priority",
    "Infer-Other", "X-Request-Id", "Idempotency-Key",
)  # fmt: skip
VALUE = st.text(
    alphabet=st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"),
    max_size=30,
) | st.sampled_from(["1", "0.5;soft", "5;pctl=99", "cost", '"int8"', "?1", "tiny", "-1", "1e9"])


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    given_headers=st.dictionaries(
        st.sampled_from([*NUMBERS, *OTHERS]),
        VALUE,
        min_size=1,
        max_size=4,
    )
)
def test_no_header_value_is_ever_more_than_a_refusal(
    edge: Edge, given_headers: dict[str, str]
) -> None:
    data = request("POST", "/infer", BODY, key=edge.key, headers=given_headers.items())
    answer = edge.send("fuzz: headers", data)
    assert answer.status in (200, 400, 404, 422, 504)  # 504: one millisecond may be too short
    if answer.status != 200:
        assert_problem(answer, answer.status, json.loads(answer.body)["code"])


def test_the_header_fuzzer_tried_hundreds() -> None:
    assert TRIED["fuzz: headers"] >= 250
