"""One example of every path parameter, request and answer, for the OpenAPI description.

A test holds each of them against its own schema.
"""

from typing import Any

DIGEST = "0" * 64
DECISION_ID = "5f0c9a1e-2a"

PARAMETERS: dict[str, Any] = {
    "model": "fashion",
    "variant": "int8",
    "digest": DIGEST,
    "Upload-Offset": 0,
    "Upload-Complete": "?1",
    "id": "a1b2c3d4",
    "decision": DECISION_ID,
    "after": 0,
    "cursor": "fp32",
    "limit": 500,
    "days": 31,
    "validate": "only",
    "force": False,
    "reason": "ticket 42: drifts on new data",
}
"""Path and query parameters by name."""

_SPEC = {
    "name": "fashion",
    "task": "classification",
    "inputs": [{"name": "image", "dtype": "float32", "shape": [1, 28, 28]}],
    "outputs": [{"name": "logits", "dtype": "float32", "shape": [7]}],
    "labels": ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Bag"],
    "preprocess": {"kind": "image", "mode": "L"},
    "metric": "top1",
    "max_batch": 32,
}
_MODEL = {
    "model": "fashion",
    "spec": _SPEC,
    "reference": "fp32",
    "active": ["fp32", "int8"],
    "inactive": ["pruned"],
}
_VARIANT = {
    "model": "fashion",
    "variant": "int8",
    "state": "active",
    "reason": "activated",
    "reference": False,
    "engaged_on_workers": 1,
    "technique": "int8",
    "runtime": "onnxruntime",
    "accuracy": {"value": 0.91, "n": 10000, "low": 0.9042, "high": 0.9155},
    "latency_ms": {"1": {"p50": 1.1, "p95": 1.3, "p99": 1.6}},
    "throughput_per_s": 1150.0,
    "cost_usd_per_million": 0.013,
    "size_bytes": 301456,
    "memory_bytes": 4194304,
    "load_s": 0.02,
    "measured_here": True,
    "manifest_id": DIGEST,
    "artifact_digest": DIGEST,
    "created_at": "2026-01-31T12:00:00Z",
}
_DETAIL = {
    **_VARIANT,
    "parent": "fp32",
    "recipe": [{"technique": "int8", "config": {"calibration_rows": 512}}],
    "history": [
        {
            "old_state": "profiled",
            "new_state": "active",
            "actor": "key a1b2c3d4 (shop)",
            "reason": "activated",
            "at": "2026-01-31T12:00:00Z",
            "id": 17,
            "action": "variant.move",
            "model": "fashion",
            "variant": "int8-v2",
            "evidence": None,
        }
    ],
}
_CANDIDATE = {
    "variant": "fp32",
    "feasible": False,
    "predicted_latency_ms": 7.9,
    "idle_latency_ms": 7.9,
    "cost_usd_per_million": 0.09,
    "accuracy": 0.912,
    "accuracy_low": 0.9063,
    "rejections": [
        {
            "bound": "max_latency",
            "limit": 0.005,
            "found": 0.0079,
            "detail": "p95 7.9 ms exceeds 5 ms",
        }
    ],
}
_DECISION = {
    "id": None,
    "outcome": "admitted",
    "objective": "accuracy",
    "preferred": "int8",
    "reason": "only_feasible",
    "eligible": ["int8"],
    "violated": [],
    "binding": None,
    "relaxation": None,
    "retry_after_s": None,
    "message": "int8 alone keeps every bound",
    "feasible": 1,
    "considered": 2,
    "candidates": [
        _CANDIDATE,
        {
            **_CANDIDATE,
            "variant": "int8",
            "feasible": True,
            "predicted_latency_ms": 1.4,
            "idle_latency_ms": 1.4,
            "cost_usd_per_million": 0.013,
            "accuracy": 0.91,
            "accuracy_low": 0.9042,
            "rejections": [],
        },
    ],
}
_BLOB = {"digest": DIGEST, "size_bytes": 301456, "complete": True}

_USAGE = {
    "key": "a1b2c3d4",
    "usd_per_day": 2,
    "unspent_usd": 1.875,
    "days": [{"day": "2026-01-31", "requests": 120345, "usd": 0.0641}],
}
EVENTS: dict[str, Any] = {
    "schema": {
        "type": "object",
        "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    },
    "example": {
        "event": "state",
        "data": '{"state": "registered", "reason": "registered over the API", '
        '"doing": "measuring", "share": 0.4}',
    },
}
"""One of a stream of server-sent events."""

ANSWERS: dict[tuple[str, str, str], Any] = {
    ("GET", "/v1/models", "200"): {"models": [_MODEL]},
    ("GET", "/v1/models/{model}", "200"): _MODEL,
    ("PUT", "/v1/models/{model}/reference", "200"): _MODEL,
    ("GET", "/v1/models/{model}/variants", "200"): {"variants": [_VARIANT]},
    ("GET", "/v1/models/{model}/variants/{variant}", "200"): _DETAIL,
    ("GET", "/v1/models/{model}/variants/{variant}/history", "200"): {
        "history": _DETAIL["history"]
    },
    ("POST", "/v1/models/{model}/variants", "201"): _DETAIL,
    ("POST", "/v1/models/{model}/variants", "202"): {
        **dict.fromkeys(_DETAIL),
        "model": "fashion",
        "variant": "int8-v2",
        "state": "registered",
        "reason": "registered over the API",
        "reference": False,
        "engaged_on_workers": 0,
        "artifact_digest": DIGEST,
        "created_at": "2026-01-31T12:00:00Z",
        "recipe": [],
        "history": [],
    },
    ("POST", "/v1/models/{model}/variants/{variant}/activate", "200"): _DETAIL,
    ("POST", "/v1/models/{model}/variants/{variant}/deactivate", "200"): {
        **_DETAIL,
        "state": "inactive",
        "reason": "drained",
        "engaged_on_workers": 0,
    },
    ("POST", "/v1/models/{model}/variants/{variant}/retire", "200"): {
        **_DETAIL,
        "state": "retired",
        "reason": "retired",
        "engaged_on_workers": 0,
    },
    ("POST", "/v1/models/{model}/variants/{variant}/shadow", "200"): {
        **_DETAIL,
        "state": "shadow",
        "reason": "tried as shadow",
    },
    ("POST", "/v1/models/{model}/variants/{variant}/canary", "200"): {
        **_DETAIL,
        "state": "canary",
        "reason": "tried as canary",
    },
    ("POST", "/v1/models/{model}/variants", "200"): {
        "passed": False,
        "gates": [
            {"gate": "format", "outcome": "passed", "detail": "", "evidence": {}},
            {
                "gate": "structure",
                "outcome": "failed",
                "detail": "node 17, operator Gelu, opset 18 is not allowed",
                "evidence": {},
            },
            {"gate": "signature", "outcome": "not_reached", "detail": "", "evidence": {}},
        ],
    },
    ("GET", "/v1/blobs/{digest}", "200"): _BLOB,
    ("PATCH", "/v1/blobs/{digest}", "200"): _BLOB,
    ("PATCH", "/v1/blobs/{digest}", "201"): _BLOB,
    ("PATCH", "/v1/blobs/{digest}", "202"): {**_BLOB, "complete": False},
    ("PUT", "/v1/blobs/{digest}", "200"): _BLOB,
    ("PUT", "/v1/blobs/{digest}", "201"): _BLOB,
    ("POST", "/v1/route", "200"): _DECISION,
    ("GET", "/v1/decisions/{id}", "200"): {
        **_DECISION,
        "id": DECISION_ID,
        "model": "fashion",
        "variant": "int8",
        "queue_ms": 0.1,
        "run_ms": 1.2,
        "total_ms": 1.9,
    },
    ("GET", "/v1/keys", "200"): {
        "keys": [
            {
                "id": "a1b2c3d4",
                "name": "shop frontend",
                "scopes": ["infer"],
                "created_at": "2026-01-31T12:00:00Z",
                "expires_at": "2027-01-31T12:00:00Z",
                "revoked_at": None,
                "old_secret_until": None,
                "limits": {
                    "allow": ["fashion", "sentiment/int8"],
                    "max_latency_ms": 100,
                    "max_cost": 5,
                    "min_accuracy": 0.9,
                    "max_accuracy_drop": None,
                    "requests_per_s": 50,
                    "usd_per_day": 2,
                },
                "version": 1,
            }
        ]
    },
    ("POST", "/v1/keys", "201"): {"key": "gs_a1b2c3d4_the-secret-is-shown-once"},
    ("POST", "/v1/keys/{id}/rotate", "200"): {"key": "gs_a1b2c3d4_another-secret-shown-once"},
    ("GET", "/v1/keys/{id}/usage", "200"): _USAGE,
    ("GET", "/v1/usage", "200"): _USAGE,
    ("GET", "/healthz", "200"): {"status": "ok"},
    ("GET", "/readyz", "200"): {"status": "ready", "registry": None},
    ("GET", "/readyz", "503"): {"status": "not ready"},
}
"""Answers by method, path and status."""
