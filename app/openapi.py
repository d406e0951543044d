"""The OpenAPI description: what FastAPI derives, and `/infer`, which is plain ASGI."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI

from app import binary, idempotency, openapi_examples, preconditions
from app.access import ROUTES, Need
from app.errors import CONTENT_TYPE, TABLE
from app.headers import OBJECTIVE_PATTERN
from app.schemas import ProblemOut

PROBLEM = {"$ref": "#/components/schemas/ProblemOut"}

_REFUSALS = {
    400: "malformed body or header",
    401: "no valid key",
    403: "the key lacks the scope",
    404: "unknown or not yours",
    408: "the body did not arrive in time",
    409: "the present state does not allow it: see `code`",
    412: "changed since it was read",
    413: "too large",
    415: "wrong content type",
    422: "well-formed, but cannot be: see `code`",
    429: "more than the key allows; see `Retry-After`",
    431: "too many or too large headers",
    502: "a worker or runtime broke",
    503: "not under the present load; see `Retry-After`",
    504: "the deadline passed in the queue, or the worker hung",
    507: "the artifact store is full",
}


def _header(name: str, schema: dict[str, Any], text: str, example: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": text,
        "schema": schema,
        "example": example,
    }


_PARAMETER = {"soft": r"soft(=\?[01])?", "point": r"point(=\?[01])?", "pctl": "pctl=[5-9][0-9]"}
_NAME = r'("[ !#-\[\]-~]*"|[A-Za-z][A-Za-z0-9!#$%&\'*+.^_`|~:/-]*)'


def _number(*parameters: str) -> dict[str, Any]:
    """A structured-field number (RFC 9651) with these parameters."""
    allowed = "|".join(_PARAMETER[name] for name in parameters)
    number = r"([0-9]{1,12}\.[0-9]{1,3}|[0-9]{1,15})"
    return {"type": "string", "pattern": f"^{number}(; *({allowed}))*$"}


_TEXT = {"type": "string"}
CONSTRAINT_HEADERS = [
    _header(
        "Infer-Max-Latency-Ms",
        _number("pctl", "soft"),
        "Deadline in milliseconds from arrival to reply, greater than 0. Parameters: `pctl` "
        "(50 to 99, default 95) is the quantile of the prediction that must fit; `soft`.",
        "50;pctl=99",
    ),
    _header(
        "Infer-Max-Cost",
        _number("soft"),
        "US dollars per million inferences. Parameter: `soft`.",
        "12.5",
    ),
    _header(
        "Infer-Min-Accuracy",
        _number("point", "soft"),
        "Floor on the model's quality metric, held against the lower 95 % bound. Parameters: "
        "`point` compares the value itself; `soft`.",
        "0.9;soft",
    ),
    _header(
        "Infer-Max-Accuracy-Drop",
        _number("soft"),
        "Percentage points below the reference. Parameter: `soft`.",
        "0.5;soft",
    ),
    _header(
        "Infer-Objective",
        {"type": "string", "pattern": OBJECTIVE_PATTERN},
        "What to optimise inside the budget: accuracy, cost or latency. Default: the first of "
        "them that is not constrained.",
        "cost",
    ),
    _header(
        "Infer-Variants",
        {"type": "string", "pattern": f"^{_NAME}(, *{_NAME})*$"},
        "Allow-list of variants; one name pins.",
        '"int8", "fp32"',
    ),
    _header(
        "Prefer",
        _TEXT,
        "`handling=lenient` serves the closest variant when nothing fits, `handling=strict` "
        "refuses; other preferences are ignored.",
        "handling=lenient",
    ),
    _header("Priority", _TEXT, "RFC 9218: `u=0` (first) to `u=7` (last).", "u=1"),
]

_TAGS_SCHEMA = {"type": "string", "pattern": rf"^(\*|{preconditions.TAGS_PATTERN})$"}
_HONOURED = {
    "If-Match": _header(
        "If-Match",
        _TAGS_SCHEMA,
        "`ETag`s of what the path names last: change it only while its version is one of theirs.",
        '"7-3f2a90c1d5e6b7a8"',
    ),
    "If-None-Match": _header(
        "If-None-Match",
        _TAGS_SCHEMA,
        "`ETag`s of what the caller has: 304 without a body where the answer is the same.",
        '"7-3f2a90c1d5e6b7a8"',
    ),
    "Idempotency-Key": _header(
        "Idempotency-Key",
        {"type": "string", "pattern": f"^{idempotency.NAME_PATTERN}$"},
        "A name of the caller's choice: a request sent again with it within 24 hours is answered "
        "as at first, and nothing is done twice.",
        "promote-int8-2026-01-31",
    ),
}
"""What control routes take, by name; `honoured` of its module says which do."""

_ETAG = {"schema": {"type": "string"}, "description": "For `If-Match` and `If-None-Match`."}
_REPLAYED = {
    "schema": {"type": "string", "enum": ["true"]},
    "description": "Where this is the answer to the first request with the `Idempotency-Key`.",
}

_INFER: dict[str, Any] = {
    "tags": ["inference"],
    "summary": "Run a model within a budget",
    "description": (
        "The router picks the variant that fits the headers' budget. JSON takes nested lists, "
        "lists by input name, base64 pictures for image models or texts for text models; a "
        "single row may leave out the batch axis. NaN and infinity in raw outputs are written as "
        "null. Raw tensors (little-endian) take the Open Inference Protocol's binary tensor "
        "extension, or are the rows of the only input; `Accept: application/octet-stream` asks "
        "for the same in return."
    ),
    "operationId": "infer",
    "parameters": [
        _header(
            "Infer-Model",
            {"type": "string", "pattern": f"^{_NAME}$"},
            "The model, when the body does not name it.",
            '"fashion"',
        ),
        *CONSTRAINT_HEADERS,
        _header(
            "Infer-Explain",
            {"type": "string", "enum": ["?0", "?1"]},
            "`?1` puts the whole decision into the body.",
            "?1",
        ),
        _header(
            binary.HEADER,
            {"type": "string", "pattern": "^[0-9]{1,12}$"},
            "With raw tensors: the bytes of the JSON description ahead of them, 0 for none.",
            "0",
        ),
        _header(
            "Infer-Cascade",
            {"type": "string", "enum": ["?0", "?1"]},
            "`?1` asks a cheap variant first and a better one for the rows it is unsure of, where "
            "such a cascade was measured and keeps every bound as a whole.",
            "?1",
        ),
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["inputs"],
                    "properties": {
                        "model": {"type": "string"},
                        "inputs": {
                            "oneOf": [
                                {"type": "array"},
                                {"type": "string"},
                                {"type": "object", "additionalProperties": {"type": "array"}},
                            ]
                        },
                    },
                },
                "example": {"model": "fashion", "inputs": [[[[0.0, 0.5], [1.0, 0.25]]]]},
            },
            "image/png": {"schema": {"type": "string", "format": "binary"}},
            "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
            binary.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}},
        },
    },
    "responses": {
        "200": {
            "description": "The answer, from exactly one variant.",
            "headers": {
                name: {"schema": {"type": "string"}, "description": text}
                for name, text in {
                    "Infer-Variant": "The variant that answered.",
                    "Infer-Decision": "Reason, feasible and considered variants, decision id.",
                    "Infer-Predicted": "Latency, cost and accuracy as predicted at arrival.",
                    "Infer-Actual": "Latency and cost as measured.",
                    "Server-Timing": "Queue, run and total milliseconds.",
                    "Infer-Cascade": "Where one was asked for: `?1` with `first`, `then`, and the "
                    "numbers of rows `unsure` and `escalated`; `?0` where none kept the bounds.",
                    "Preference-Applied": "The `handling` that was asked for.",
                    "Infer-Effective": "Where the key has bounds: each as it holds, and `from` "
                    "whom, `key` or `request`.",
                    "RateLimit-Policy": "Where the key has a rate: quota `q` in `w` seconds.",
                    "RateLimit": "What remains of it, `r`, and the seconds until all is back, `t`.",
                    "Infer-Max-Latency-Ms": "The longest deadline allowed, where it was cut.",
                    "X-Request-Id": "The caller's, or one made here.",
                    binary.HEADER: "With raw tensors: the bytes of the description.",
                }.items()
            },
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["model", "variant"],
                        "properties": {
                            "model": {"type": "string"},
                            "variant": {"type": "string"},
                            "predictions": {
                                "type": "array",
                                "description": "one per row",
                                "items": {
                                    "type": "object",
                                    "required": ["label", "score"],
                                    "properties": {
                                        "label": {"type": "string"},
                                        "score": {"type": ["number", "null"]},
                                    },
                                },
                            },
                            "outputs": {"type": "object"},
                            "cascade": {
                                "type": "object",
                                "description": "the variants of the cascade that answered",
                                "properties": {
                                    "first": {"type": "string"},
                                    "then": {"type": "string"},
                                    "threshold": {"type": "number"},
                                    "unsure_rows": {"type": "integer"},
                                    "escalated_rows": {"type": "integer"},
                                },
                            },
                            "degraded": {"type": "boolean"},
                            "violated": {"type": "array", "items": {"type": "string"}},
                            "decision": {"$ref": "#/components/schemas/DecisionOut"},
                        },
                    },
                    "example": {
                        "model": "fashion",
                        "variant": "int8",
                        "predictions": [{"label": "Sneaker", "score": 0.98}],
                    },
                },
                binary.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
}


def install(app: FastAPI) -> None:
    """Have the app describe itself completely: `/infer`, headers, keys and every refusal."""
    derive = app.openapi

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(derive())
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]  # FastAPI documents this as its hook


def _complete(schema: dict[str, Any]) -> dict[str, Any]:
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas["ProblemOut"] = ProblemOut.model_json_schema()
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    schema["paths"]["/infer"] = {"post": copy.deepcopy(_INFER)}
    schema["paths"]["/v1/route"]["post"].setdefault("parameters", []).extend(CONSTRAINT_HEADERS)
    for path, item in schema["paths"].items():
        for method, operation in item.items():
            _complete_operation(method.upper(), path, operation)
    return schema


def _complete_operation(method: str, path: str, operation: dict[str, Any]) -> None:
    need = ROUTES[method, path]
    operation["security"] = [] if need == "public" else [{"key": []}]
    operation["description"] = f"{operation.get('description', '')}\n\nScope: {need}."
    for parameter in operation.get("parameters", ()):
        if "example" not in parameter:
            name = parameter["name"]
            if path.startswith("/v1/decisions"):
                name = "decision"
            elif name == "after" and parameter["schema"]["type"] == "string":
                name = "cursor"
            parameter["example"] = openapi_examples.PARAMETERS[name]
    answers = operation["responses"]
    answers.pop("422", None)  # FastAPI's own shape, which nothing here has
    honoured = _honoured(method, path, answers)
    if honoured:
        operation.setdefault("parameters", []).extend(_HONOURED[name] for name in honoured)
    for status, answer in answers.items():
        if "text/event-stream" in answer.get("content", {}):
            answer["content"]["text/event-stream"] = openapi_examples.EVENTS
        if (example := openapi_examples.ANSWERS.get((method, path, status))) is not None:
            answer["content"]["application/json"]["example"] = example
        if honoured and preconditions.MEDIA_TYPE in answer.get("content", {}):
            answer["headers"] = {"ETag": _ETAG}
        if "Idempotency-Key" in honoured:
            answer.setdefault("headers", {})[idempotency.REPLAYED] = _REPLAYED
    if "If-None-Match" in honoured:
        answers["304"] = {"description": "the caller has it", "headers": {"ETag": _ETAG}}
    queried = any(parameter["in"] == "query" for parameter in operation.get("parameters", ()))
    statuses = _statuses(method, path, need, honoured) | ({422} if queried else set())
    for status in sorted(statuses):
        answers.setdefault(str(status), _refusal(status, _codes(status, method, path, honoured)))


def _honoured(method: str, path: str, answers: Mapping[str, Any]) -> list[str]:
    """What a control route takes beside its own parameters."""
    if path == "/infer":
        return []
    media_types = {kind for answer in answers.values() for kind in answer.get("content", ())}
    condition = preconditions.honoured(method, path, media_types)
    once = ["Idempotency-Key"] if idempotency.honoured(method, path) else []
    return ([] if condition is None else [condition]) + once


def _statuses(method: str, path: str, need: Need, honoured: Sequence[str]) -> set[int]:
    """The refusals that an operation can give."""
    found = {431}
    if honoured:
        found |= {400}
    if "If-Match" in honoured:
        found |= {412}
    if "Idempotency-Key" in honoured:
        found |= {409, 422}
    if need != "public":
        found |= {401, 429} if need == "any" else {401, 403, 429}
    if "{" in path or need == "infer":
        found |= {404}
    if "{digest}" in path:
        found |= {422}
    if method in ("POST", "PUT") and not path.endswith(("activate", "retire")):
        found |= {400, 408, 413, 415, 422}
    if need == "admin" and method != "GET":
        found |= {409, 503, 507}
    if path.endswith(("/activate", "/shadow", "/canary")):
        found |= {422}
    if path.endswith("/events"):
        found |= {503}
    if path == "/infer":
        found |= {409, 502, 503, 504}
    if path == "/v1/route":
        found |= {409}
    return found


def _codes(status: int, method: str, path: str, honoured: Sequence[str]) -> list[str]:
    """Codes that a refusal may have here: one, or those that call for different things."""
    repeated = {409: ["in-flight"], 422: ["idempotency-key-reused"]}
    codes = repeated.get(status, []) if "Idempotency-Key" in honoured else []
    if (method, path, status) == ("PATCH", "/v1/blobs/{digest}", 409):
        codes = ["mismatching-upload-offset"]
    usual = _CODES[status]
    if status in (409, 422) and ROUTES[method, path] != "infer":
        usual = {409: "conflict", 422: "invalid"}[status]
    return [usual, *codes]


def _refusal(status: int, codes: Sequence[str]) -> dict[str, Any]:
    examples = {
        code: {
            "value": {
                "type": f"urn:gearshift:problem:{code}",
                "title": _TITLES[code],
                "status": status,
                "detail": "What was wrong with this request, in one sentence.",
                "code": code,
                "request_id": "5f0c9a1e-r2a",
            }
        }
        for code in codes
    }
    return {
        "description": _REFUSALS[status],
        "content": {CONTENT_TYPE: {"schema": PROBLEM, "examples": examples}},
    }


_CODES = {status: code for _, status, code, _ in reversed(TABLE)} | {431: "too-many-headers"}
"""One code of each status, the first of the table."""

_TITLES = {code: title for _, _, code, title in TABLE} | {"too-many-headers": "Too many headers"}
