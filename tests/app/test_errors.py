"""The one table from errors to statuses, and what a problem document may hold."""

import json

import pytest

from app.engine.worker import WorkerLost
from app.errors import (
    CONTENT_TYPE,
    MAX_DETAIL,
    MAX_FIELD,
    TABLE,
    Malformed,
    Problem,
    Refused,
    TensorMismatch,
    Unauthenticated,
    problem_for,
)
from variants.errors import ArtifactRejected, GearshiftError, Invalid, NotFound


def test_a_more_special_error_stands_before_a_more_general_one() -> None:
    kinds = [row[0] for row in TABLE]
    for index, kind in enumerate(kinds):
        for earlier in kinds[:index]:
            assert not issubclass(kind, earlier), f"{kind} is shadowed by {earlier}"


def test_codes_are_unique_words() -> None:
    codes = [code for _, _, code, _ in TABLE]
    assert len(set(codes)) == len(codes)
    assert all(code == code.lower() and " " not in code for code in codes)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Malformed("x"), 400, "malformed"),
        (Invalid("x"), 422, "invalid"),
        (TensorMismatch("x"), 422, "tensor-mismatch"),
        (Unauthenticated("x"), 401, "unauthenticated"),
        (NotFound("x"), 404, "not-found"),
        (ArtifactRejected("format_not_allowed", "x"), 415, "format-not-allowed"),
        (ArtifactRejected("other", "x"), 422, "artifact-rejected"),
        (WorkerLost("crash"), 502, "worker-lost"),
        (WorkerLost("hang"), 504, "worker-hung"),
        (GearshiftError("/secret/path"), 500, "internal"),
        (ZeroDivisionError("/secret/path"), 500, "internal"),
    ],
)
def test_each_error_has_its_status_and_code(error: Exception, status: int, code: str) -> None:
    problem = problem_for(error)
    assert (problem.status, problem.code) == (status, code)
    document = json.loads(problem.body("abc"))
    assert document["type"] == f"urn:gearshift:problem:{code}"
    assert document["request_id"] == "abc" and document["detail"] and document["title"]
    assert "/secret/path" not in document["detail"]


def test_what_a_caller_sent_is_never_quoted_at_length() -> None:
    problem = problem_for(Malformed("x" * 100_000, field="y" * 100_000))
    assert len(problem.detail) == MAX_DETAIL and len(problem.members["field"]) == MAX_FIELD


def test_capacity_problems_say_when_to_come_back() -> None:
    for kind, status, _, _ in TABLE:
        if status == 503 and not issubclass(kind, Refused):
            assert problem_for(kind()).headers["Retry-After"]


def test_a_document_is_json_whatever_its_members() -> None:
    problem = Problem(
        status=422,
        code="x",
        title="x",
        detail="é🦊",
        members={"a": float("nan"), "b": float("inf")},
    )
    assert json.loads(problem.body("-"), parse_constant=pytest.fail)["a"] is None
    assert CONTENT_TYPE == "application/problem+json"
