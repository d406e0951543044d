"""Request headers to constraints, and reply headers that any RFC 9651 parser reads."""

import math
from decimal import Decimal
from typing import Any

import http_sf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import headers
from app.errors import Malformed
from app.headers import InferHeaders
from router.constraints import Constraints
from router.decision import Verdict

NAMES = [
    b"infer-model", b"infer-max-latency-ms", b"infer-max-cost", b"infer-min-accuracy",
    b"infer-max-accuracy-drop", b"infer-objective", b"infer-variants", b"infer-explain",
    b"prefer", b"priority", b"infer-other", b"accept",
]  # fmt: skip
VALUES = st.binary(max_size=40) | st.sampled_from(
    [
        b"1",
        b"1.5;soft",
        b"5;pctl=99",
        b"(1 2)",
        b"@1",
        b":aGk=:",
        b'%"f%c3%bc"',
        b"a;b=c",
        b'"',
        b"?1",
    ]
)


def parse(*raw: tuple[str, str]) -> InferHeaders:
    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in raw]
    return headers.parse(encoded, max_latency_s=60)


@settings(max_examples=1000, deadline=None)
@given(raw=st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=5))
def test_any_header_is_understood_or_malformed(raw: list[tuple[bytes, bytes]]) -> None:
    try:
        found = headers.parse(raw, max_latency_s=60)
    except Malformed as error:
        assert error.field
    else:
        assert isinstance(found.constraints, Constraints)


def test_every_header_is_read_into_its_constraint() -> None:
    found = parse(
        ("Infer-Model", '"fashion"'),
        ("Infer-Max-Latency-Ms", "50;pctl=99;soft"),
        ("Infer-Max-Cost", "12.5"),
        ("Infer-Min-Accuracy", "0.9;point"),
        ("Infer-Max-Accuracy-Drop", "0.5;soft"),
        ("Infer-Objective", "cost"),
        ("Infer-Variants", '"int8", fp16, "int8"'),
        ("Infer-Explain", "?1"),
        ("Prefer", "wait=5, handling=lenient"),
        ("Priority", "u=1, i"),
    )
    assert found == InferHeaders(
        model="fashion",
        constraints=Constraints(
            max_latency_s=0.05,
            latency_percentile=99,
            max_cost_usd_per_million=12.5,
            min_accuracy=0.9,
            accuracy_point=True,
            max_accuracy_drop_points=0.5,
            soft=frozenset({"max_latency", "max_accuracy_drop"}),
            objective="cost",
            variants=("int8", "fp16"),
            lenient=True,
            urgency=1,
        ),
        explain=True,
        handling="lenient",
        clamped=False,
    )


def test_no_headers_ask_for_nothing() -> None:
    assert parse(("Accept", "*/*")).constraints == Constraints()


def test_lists_may_be_spread_over_lines() -> None:
    found = parse(("Prefer", "wait=5"), ("Prefer", "handling=strict"))
    assert found.handling == "strict"


def test_a_deadline_is_clamped() -> None:
    found = parse(("Infer-Max-Latency-Ms", "60000.001"))
    assert found.clamped and found.constraints.max_latency_s == 60


def test_headers_of_any_length_are_read_alike() -> None:
    many = ", ".join(f'"v{number}"' for number in range(500))
    variants = parse(("Infer-Variants", many)).constraints.variants
    assert variants is not None and len(variants) == 500


@pytest.mark.parametrize("value", ["lenient, handling=lenient", '"lenient"', "LENIENT;x=y"])
def test_the_same_handling_twice_is_no_contradiction(value: str) -> None:
    assert parse(("Prefer", f"handling={value}")).constraints.lenient


KNOWN = st.none() | st.floats(min_value=0, allow_nan=False)


@settings(max_examples=500, deadline=None)
@given(latency_s=KNOWN, cost=KNOWN, accuracy=KNOWN)
def test_what_is_promised_parses_back(
    latency_s: float | None, cost: float | None, accuracy: float | None
) -> None:
    written = headers.promised(
        Verdict(
            variant="int8",
            rejections=(),
            predicted_latency_s=latency_s,
            idle_latency_s=None,
            cost_usd_per_million=cost,
            accuracy=accuracy,
            accuracy_low=None,
        )
    )
    parsed: Any = http_sf.parse(written.encode(), tltype="dictionary") if written else {}
    latency_ms = None if latency_s is None or math.isinf(latency_s) else latency_s * 1e3
    told = {"latency-ms": latency_ms, "cost": cost, "accuracy": accuracy}
    known = {name: value for name, value in told.items() if value is not None}
    assert list(parsed) == list(known)
    for name, value in known.items():
        bounded = min(value, headers.MAX_DECIMAL)
        assert math.isclose(parsed[name][0], bounded, rel_tol=1e-9, abs_tol=0.0006)


@given(value=st.floats(min_value=0, allow_infinity=False))
def test_a_reply_number_is_a_bare_decimal(value: float) -> None:
    parsed: Any = http_sf.parse(headers.reply_number(value).encode(), tltype="item")
    assert isinstance(parsed[0], int | Decimal) and parsed[1] == {}
