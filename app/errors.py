"""The one table from errors to HTTP statuses, and RFC 9457 problem documents.

Every refusal leaves the gateway as `application/problem+json` with `type`, `title`, `status`,
`detail`, `code` and `request_id`, and with more members where they help (`field`, `decision`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.engine.refusals import DeadlinePassed, Draining, QueueFull, Shed
from app.engine.worker import LoadFailed, RunFailed, WorkerLost
from app.progress import TooManyListeners
from app.signing import SignatureInvalid, SignatureRequired
from router.decision import Decision, Relaxation, Verdict
from variants.errors import (
    ArtifactRejected,
    BeingChanged,
    Conflict,
    Invalid,
    NotFound,
    Outdated,
    RegistryReadOnly,
    RegistryUnavailable,
    StorageBroken,
    StorageFull,
)

CONTENT_TYPE = "application/problem+json"
MAX_DETAIL = 2000
MAX_FIELD = 200
"""Characters. What callers sent may be quoted, but never at length."""


class Malformed(Invalid):
    """A body or header that cannot be understood."""


class TensorMismatch(Invalid):
    """Well-formed input that does not fit the model's signature."""


class KeyReused(Exception):
    """An `Idempotency-Key` that was sent before, with another request."""


class InFlight(Exception):
    """The first request with this `Idempotency-Key` has not been answered yet."""


class UploadQuota(Exception):
    """As many uploads at once as are allowed are on their way."""


class OffsetMismatch(Exception):
    """An upload would go on elsewhere than where it ended; `offset_bytes` says where that is."""

    def __init__(self, provided_bytes: int, offset_bytes: int) -> None:
        super().__init__(
            f"the upload has {offset_bytes} bytes so far, Upload-Offset is {provided_bytes}"
        )
        self.provided_bytes = provided_bytes
        self.offset_bytes = offset_bytes


class TooLarge(Exception):
    """The body is larger than the gateway takes."""


class WrongContentType(Exception):
    """A content type or encoding that this route does not take."""


class BodyTimeout(Exception):
    """The body did not arrive in time."""


class Unauthenticated(Exception):
    """No key, or not a valid one. Says nothing about which."""


class Forbidden(Exception):
    """The key lacks the scope."""


class OverQuota(Exception):
    """The caller asks for more than its key allows; `cause` is a word for the metrics."""

    cause = ""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimited(OverQuota):
    """Too many requests in too short a time."""

    cause = "rate_limit"


class BudgetSpent(OverQuota):
    """The dollars of the key's day are spent."""

    cause = "budget"


class Refused(Exception):
    """The router's decision was not to admit; `id` finds it again."""

    def __init__(self, decision: Decision, id: str) -> None:
        super().__init__(decision.message)
        self.decision = decision
        self.id = id


class Infeasible(Refused):
    """No variant can meet the budget even when idle."""


class Overloaded(Refused):
    """Feasible, but not under the present load."""


class NoHealthyVariant(Refused):
    """Every variant that would do is quarantined."""


class TokenizerLost(Exception):
    """The store has lost a text model's tokenizer; ready-made tensors are still served."""


class VariantDisabled(Exception):
    """The pinned variant exists and is not active."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One refusal, ready to be sent."""

    status: int
    code: str
    title: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, Any] = field(default_factory=dict)

    def body(self, request_id: str) -> bytes:
        """The problem document."""
        return orjson.dumps(
            {
                "type": f"urn:gearshift:problem:{self.code}",
                "title": self.title,
                "status": self.status,
                "detail": self.detail,
                "code": self.code,
                "request_id": request_id,
                **self.members,
            },
            option=orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS,
        )


TABLE: tuple[tuple[type[Exception], int, str, str], ...] = (
    (Malformed, 400, "malformed", "The request cannot be understood"),
    (Unauthenticated, 401, "unauthenticated", "A valid key is needed"),
    (Forbidden, 403, "forbidden", "The key does not allow this"),
    (SignatureRequired, 403, "signature-required", "Only signed artifacts are taken here"),
    (SignatureInvalid, 403, "signature-invalid", "The artifact's signature does not hold"),
    (NotFound, 404, "not-found", "No such thing"),
    (BodyTimeout, 408, "body-timeout", "The body did not arrive in time"),
    (VariantDisabled, 409, "variant-disabled", "The variant is not active"),
    (Outdated, 412, "precondition-failed", "It has been changed meanwhile"),
    (Conflict, 409, "conflict", "The present state does not allow this"),
    (OffsetMismatch, 409, "mismatching-upload-offset", "The upload goes on at another byte"),
    (InFlight, 409, "in-flight", "The same request is being worked on"),
    (TooLarge, 413, "too-large", "The body is too large"),
    (WrongContentType, 415, "unsupported-media-type", "This content is not taken here"),
    (TensorMismatch, 422, "tensor-mismatch", "The input does not fit the model's signature"),
    (Infeasible, 422, "constraints-infeasible", "No variant can meet this budget"),
    (ArtifactRejected, 422, "artifact-rejected", "The artifact cannot be used"),
    (LoadFailed, 422, "load-failed", "The workers could not load the artifact"),
    (KeyReused, 422, "idempotency-key-reused", "This Idempotency-Key was used before"),
    (Invalid, 422, "invalid", "The request says something that cannot be"),
    (RateLimited, 429, "rate-limited", "Too many requests"),
    (BudgetSpent, 429, "budget-spent", "The key's dollars of today are spent"),
    (RunFailed, 502, "run-failed", "The runtime failed on this input"),
    (WorkerLost, 502, "worker-lost", "The worker was lost during the call"),
    (Overloaded, 503, "overloaded", "The budget cannot be met under the present load"),
    (NoHealthyVariant, 503, "no-healthy-variant", "Every variant that could answer is broken"),
    (TokenizerLost, 503, "tokenizer-lost", "The model's tokenizer cannot be loaded"),
    (TooManyListeners, 503, "too-many-listeners", "Enough callers follow registrations already"),
    (QueueFull, 503, "queue-full", "Too many bytes wait already"),
    (Shed, 503, "shed", "A more urgent request took the place in the full queue"),
    (Draining, 503, "draining", "The gateway is shutting down"),
    (StorageBroken, 503, "storage-broken", "The artifact store's disk keeps nothing now"),
    (RegistryReadOnly, 503, "registry-read-only", "The registry takes no changes now"),
    (RegistryUnavailable, 503, "registry-unavailable", "The registry does not answer now"),
    (
        DeadlinePassed,
        504,
        "deadline-passed",
        "The deadline passed in the queue; the work was dropped",
    ),
    (UploadQuota, 429, "too-many-uploads", "Too many uploads at once"),
    (StorageFull, 507, "storage-full", "No room for what was sent"),
)
"""Error, status, code, title. The first row whose type matches holds; anything else is a 500."""


def problem_for(error: BaseException) -> Problem:
    """The refusal for an error, with its headers and members."""
    if isinstance(error, WorkerLost) and error.cause == "hang":
        return Problem(
            status=504,
            code="worker-hung",
            title="The worker did not answer in time and was replaced",
            detail="The variant hung on this batch.",
        )
    if isinstance(error, WorkerLost) and error.cause == "oom":
        return Problem(
            status=503,
            code="out-of-memory",
            title="The worker ran out of memory and was replaced",
            detail="This batch needed more memory than a worker may have (worker_memory_bytes).",
            headers={"Retry-After": "1"},
        )
    if isinstance(error, ArtifactRejected) and error.code == "format_not_allowed":
        return Problem(
            status=415, code="format-not-allowed", title="Only ONNX is taken", detail=str(error)
        )
    for kind, status, code, title in TABLE:
        if isinstance(error, kind):
            return Problem(
                status=status,
                code=code,
                title=title,
                detail=str(error)[:MAX_DETAIL] or f"{title}.",
                headers=_headers(error, status),
                members=_members(error),
            )
    return Problem(
        status=500,
        code="internal",
        title="This is a bug in the gateway",
        detail="Please report it with the request id.",
    )


def _headers(error: BaseException, status: int) -> dict[str, str]:
    seconds = 1.0
    match error:
        case OffsetMismatch():
            return {"Upload-Offset": str(error.offset_bytes), "Upload-Complete": "?0"}
        case Unauthenticated():
            return {"WWW-Authenticate": 'Bearer realm="gearshift"'}
        case Infeasible():
            return {"x-should-retry": "false"}
        case NoHealthyVariant() | TokenizerLost() | StorageFull():
            seconds = 60.0
        case QueueFull() | Shed() | OverQuota():
            seconds = error.retry_after_s
        case Overloaded():
            seconds = error.decision.retry_after_s or 1.0
        case _ if status not in (429, 502, 503) and not isinstance(error, InFlight | BeingChanged):
            return {}
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def _members(error: BaseException) -> dict[str, Any]:
    members: dict[str, Any] = {}
    if isinstance(error, Invalid) and error.field is not None:
        members["field"] = error.field[:MAX_FIELD]
    if isinstance(error, OffsetMismatch):
        members["expected-offset"] = error.offset_bytes
        members["provided-offset"] = error.provided_bytes
    if isinstance(error, ArtifactRejected):
        members["reason"] = error.code
    if isinstance(error, Refused):
        members["decision_id"] = error.id
        members["binding"] = error.decision.binding
        members["relaxation"] = relaxation_json(error.decision.relaxation)
        members["candidates"] = [verdict_json(v) for v in error.decision.verdicts]
    return members


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """One candidate with its estimate and every reason against it, as the API shows it."""
    return {
        "variant": verdict.variant,
        "feasible": verdict.feasible,
        "predicted_latency_ms": milliseconds(verdict.predicted_latency_s),
        "idle_latency_ms": milliseconds(verdict.idle_latency_s),
        "cost_usd_per_million": verdict.cost_usd_per_million,
        "accuracy": verdict.accuracy,
        "accuracy_low": verdict.accuracy_low,
        "rejections": [
            {"bound": r.bound, "limit": r.limit, "found": r.found, "detail": r.detail}
            for r in verdict.rejections
        ],
    }


def relaxation_json(relaxation: Relaxation | None) -> dict[str, Any] | None:
    """The cheapest way out of an infeasible budget, as the API shows it.

    orjson must not be given the object: compiled ones have no such memory as it looks for.
    """
    if relaxation is None:
        return None
    return {
        "bound": relaxation.bound,
        "limit": relaxation.limit,
        "needed": relaxation.needed,
        "variant": relaxation.variant,
        "sentence": relaxation.sentence,
    }


def milliseconds(seconds: float | None) -> float | None:
    """Milliseconds with three decimals, None for None or infinity."""
    return None if seconds is None or math.isinf(seconds) else round(seconds * 1000, 3)
