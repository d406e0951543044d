"""The OpenAPI description: what FastAPI derives, and `/infer`, which is plain ASGI."""

from typing import Any

from fastapi import FastAPI

from app.access import ROUTES
from app.schemas import ProblemOut

PROBLEM = {"$ref": "#/components/schemas/ProblemOut"}

_REFUSALS = {
    400: "malformed body or header",
    401: "no valid key",
    403: "the key lacks the scope",
    404: "unknown or not yours",
    405: "method not allowed",
    408: "the body did not arrive in time",
    409: "the present state does not allow it",
    413: "too large",
    415: "wrong content type",
    422: "well-formed, but cannot be: see `code`",
    431: "too many headers",
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


_ITEM = {"type": "string"}
CONSTRAINT_HEADERS = [
    _header(
        "Infer-Max-Latency-Ms",
        _ITEM,
        "Deadline in milliseconds from arrival to reply. Parameters: `pctl` (50 to 99, default "
        "95) is the quantile of the prediction that must fit; `soft`.",
        "50;pctl=99",
    ),
    _header(
        "Infer-Max-Cost", _ITEM, "US dollars per million inferences. Parameter: `soft`.", "12.5"
    ),
    _header(
        "Infer-Min-Accuracy",
        _ITEM,
        "Floor on the model's quality metric, held against the lower 95 % bound. Parameters: "
        "`point` compares the value itself; `soft`.",
        "0.9",
    ),
    _header(
        "Infer-Max-Accuracy-Drop",
        _ITEM,
        "Percentage points below the reference. Parameter: `soft`.",
        "0.5",
    ),
    _header(
        "Infer-Objective",
        _ITEM,
        "What to optimise inside the budget: accuracy, cost or latency. Default: the first of "
        "them that is not constrained.",
        "cost",
    ),
    _header("Infer-Variants", _ITEM, "Allow-list of variants; one name pins.", '"int8", "fp16"'),
    _header(
        "Prefer",
        _ITEM,
        "`handling=lenient` serves the closest variant when nothing fits.",
        "handling=lenient",
    ),
    _header("Priority", _ITEM, "RFC 9218: `u=0` (first) to `u=7` (last).", "u=1"),
]

_INFER: dict[str, Any] = {
    "tags": ["inference"],
    "summary": "Run a model within a budget",
    "description": (
        "The router picks the variant that fits the headers' budget. JSON takes nested lists, "
        "lists by input name, or base64 pictures for image models; a single row may leave out "
        "the batch axis. NaN and infinity in raw outputs are written as null."
    ),
    "operationId": "infer",
    "parameters": [
        _header("Infer-Model", _ITEM, "The model, when the body is a picture.", '"fashion"'),
        *CONSTRAINT_HEADERS,
        _header("Infer-Explain", _ITEM, "`?1` puts the whole decision into the body.", "?1"),
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
                                        "score": {"type": "number"},
                                    },
                                },
                            },
                            "outputs": {"type": "object"},
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
                }
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
    components.setdefault("schemas", {})["ProblemOut"] = ProblemOut.model_json_schema()
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    schema["paths"]["/infer"] = {"post": _INFER}
    schema["paths"]["/v1/route"]["post"].setdefault("parameters", []).extend(CONSTRAINT_HEADERS)
    for path, item in schema["paths"].items():
        for method, operation in item.items():
            need = ROUTES[method.upper(), path]
            operation["security"] = [] if need == "public" else [{"key": []}]
            operation["description"] = f"{operation.get('description', '')}\n\nScope: {need}."
            refusals = {str(status): _refusal(status) for status in _REFUSALS}
            operation["responses"] = {**refusals, **operation["responses"], "422": refusals["422"]}
    return schema


def _refusal(status: int) -> dict[str, Any]:
    return {
        "description": _REFUSALS[status],
        "content": {"application/problem+json": {"schema": PROBLEM}},
    }
