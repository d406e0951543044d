"""What control routes take and give, as pydantic models; milliseconds only here."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from app.access import Scope
from app.catalog import ServedModel, cost_usd_per_million
from app.errors import milliseconds, relaxation_json, verdict_json
from app.findings import Finding
from app.tenant import today
from router.decision import Decision
from router.rollout import Criteria, Judged, Plan, Share
from variants.audit import AuditEntry
from variants.cost import Prices
from variants.evidence import Cascade, Evaluation, Interval, LayerSensitivity
from variants.key_table import KeyRecord
from variants.lifecycle import State
from variants.manifest import Digest, Manifest, Step
from variants.profile import Accuracy, Quantiles
from variants.registry import VariantRecord
from variants.spec import ModelSpec, Name
from variants.terms import Terms, allowed, names
from variants.usage_table import Usage


class Strict(BaseModel):
    """Refuses unknown keys."""

    model_config = ConfigDict(extra="forbid")


class LatencyOut(BaseModel):
    """Service time of one batch in milliseconds."""

    p50: float
    p95: float
    p99: float


class VariantOut(BaseModel):
    """A variant with its state and what was measured about it."""

    model: str
    variant: str
    state: State
    reason: str
    reference: bool
    engaged_on_workers: int = Field(description="workers that have it loaded now")
    technique: str | None = None
    runtime: str | None = None
    accuracy: Accuracy | None = None
    latency_ms: dict[int, LatencyOut] | None = Field(None, description="by batch size")
    throughput_per_s: float | None = None
    cost_usd_per_million: float | None = None
    size_bytes: int | None = None
    memory_bytes: int | None = None
    load_s: float | None = None
    measured_here: bool | None = Field(None, description="whether the profile is of this host")
    manifest_id: str | None = None
    manifest_error: str | None = Field(
        None, description="why its manifest cannot be read, and so nothing measured is told"
    )
    artifact_digest: str
    created_at: datetime


class PromiseOut(BaseModel):
    """What was seen of it lately on this gateway, against what was measured of it."""

    runs: int
    late: Interval = Field(description="share of runs that took more than 1.5 times the p95")
    beyond: Interval = Field(description="that share less the one of all other variants")
    rows: int = Field(description="live rows compared with the reference's answers")
    agreed: Interval | None = Field(description="share of them with the same answer")
    promised_agreement: float | None = Field(
        description="the least that the build's rows, or the gate's, allow"
    )
    broken: bool = Field(description="more than 5 % are surely late, or agreement is below")
    own_doing: bool = Field(description="and surely not because of the host")


class RolloutOut(BaseModel):
    """How a shadow or canary is doing on this gateway, which counts its own traffic."""

    plan: Plan
    verdict: str = Field(description="promote, demote, or wait: it is not sure yet")
    findings: list[Judged]
    runs: int = Field(description="its runs for callers, or on copies")
    failed: int
    compared: int = Field(description="rows compared with the reference")
    agreed: int
    skipped: int = Field(
        description="answers in its share that were not compared: no worker was idle, or the last "
        "copy still ran. One a second is compared all the same"
    )
    latency_ms: LatencyOut | None = Field(description="of its last runs")


class VariantDetail(VariantOut):
    """A variant with its history and lineage."""

    parent: str | None = None
    recipe: list[Step] = []
    evaluation: Evaluation | None = Field(None, description="what the build's test rows say")
    sensitivity: list[LayerSensitivity] = []
    cascades: list[Cascade] = Field([], description="ask this variant first, then a better one")
    promise: PromiseOut | None = Field(None, description="while it serves, unless `demote` is off")
    rollout: RolloutOut | None = Field(None, description="while it is a shadow or canary")
    history: list[AuditEntry] = Field([], description="the latest 20 lines; all: `/history`")


_NEXT = "the `after` of the page that follows; none on the last one"
Next = Annotated[str | None, Field(description=_NEXT)]


class HistoryOut(BaseModel):
    """What happened to a variant, oldest first."""

    history: list[AuditEntry]
    next: Annotated[int | None, Field(description=_NEXT)] = None


class ModelOut(BaseModel):
    """A model: its promise and its variants' names."""

    model: str
    spec: ModelSpec
    reference: str | None
    active: list[str]
    inactive: list[str]


class ModelList(BaseModel):
    """Every model that is served."""

    models: list[ModelOut]
    next: Next = None


class VariantList(BaseModel):
    """Every variant of one model, in any state."""

    variants: list[VariantOut]
    next: Next = None


class ArtifactIn(Strict):
    """The uploaded blob that a new variant consists of."""

    digest: Digest
    format: str = Field("onnx", pattern="^onnx$")


MAX_CONFIG_DEPTH = 32
"""Objects and lists within each other in a step's configuration; JSON readers take some 200."""


def _shallow(steps: list[Step]) -> list[Step]:
    """Raises `ValueError` for a configuration that is nested too deeply to be read again."""
    for step in steps:
        level: list[Any] = [step.config]
        for _ in range(MAX_CONFIG_DEPTH):
            level = [
                inner
                for one in level
                if isinstance(one, Mapping | list)
                for inner in (one.values() if isinstance(one, Mapping) else one)
            ]
        if any(isinstance(one, Mapping | list) for one in level):
            raise ValueError(
                f"config of {step.technique!r} is nested more than {MAX_CONFIG_DEPTH} deep"
            )
    return steps


class VariantIn(Strict):
    """A new variant: its name, its uploaded artifact and where it came from."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "int8-v2", "artifact": {"digest": "0" * 64}}]},
    )

    name: Name
    artifact: ArtifactIn
    parent: Name | None = Field(None, description="the variant it was made from")
    recipe: Annotated[list[Step], Field(max_length=32), AfterValidator(_shallow)] = []
    activate: bool = Field(True, description="serve it as soon as it is profiled")
    then: Literal["activate", "shadow", "canary", "wait"] | None = Field(
        None, description="what becomes of it once it is profiled; by default as `activate` says"
    )
    plan: Plan | None = Field(
        None, description="for a shadow or canary: whose requests, and what it must show"
    )
    min_agreement: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="share of evaluation rows with the reference's answer that the lower 95 % "
        "bound must reach; by default the gateway's option `min_agreement`, and never less than it",
    )
    signature: dict[str, Any] | None = Field(
        None, description="the artifact's signature (OpenSSF Model Signing, by key)"
    )

    @property
    def goal(self) -> Literal["activate", "shadow", "canary", "wait"]:
        """What becomes of it once it is profiled."""
        return self.then or ("activate" if self.activate else "wait")


class PlanIn(Strict):
    """How a shadow or canary is tried: whose requests, and what it must show."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"share": {"ratio": 0.1}, "criteria": {"min_agreement": 0.9}}]
        },
    )

    share: Share = Share()
    criteria: Criteria = Criteria()

    def plan(self) -> Plan:
        """The same as the domain's frozen type."""
        return Plan(share=self.share, criteria=self.criteria)


class GatesOut(BaseModel):
    """What every gate found of an artifact that was only validated."""

    passed: bool
    gates: list[Finding]


class ReferenceIn(Strict):
    """The variant that accuracy drops are counted from."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"variant": "fp32"}]})

    variant: Name


class BlobOut(BaseModel):
    """A stored blob, or what has arrived of one that is not whole yet."""

    digest: str
    size_bytes: int
    complete: bool


_Limit = Annotated[float | None, Field(ge=0)]


class TermsIn(Strict):
    """What a key may do; nothing is limited that is left out."""

    allow: Annotated[list[str] | None, Field(min_length=1, max_length=1000)] = Field(
        None, description="models (`fashion`) and variants (`fashion/int8`); no others are known"
    )
    max_latency_ms: _Limit = Field(None, description="ceiling for every request")
    max_cost: _Limit = Field(None, description="US dollars per million inferences")
    min_accuracy: _Limit = Field(None, description="floor, held against the lower 95 % bound")
    max_accuracy_drop: _Limit = Field(None, description="percentage points below the reference")
    requests_per_s: _Limit = Field(None, description="for each gateway")
    usd_per_day: _Limit = Field(None, description="UTC day, all gateways on one database together")

    def terms(self) -> Terms:
        """The same inside. Raises `Invalid`."""
        latency_s = None if self.max_latency_ms is None else self.max_latency_ms / 1000
        return Terms(
            allow=None if self.allow is None else allowed(self.allow),
            max_latency_s=latency_s,
            max_cost_usd_per_million=self.max_cost,
            min_accuracy=self.min_accuracy,
            max_accuracy_drop_points=self.max_accuracy_drop,
            requests_per_s=self.requests_per_s,
            usd_per_day=self.usd_per_day,
        )


class KeyIn(Strict):
    """A new key."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "shop frontend",
                    "scopes": ["infer"],
                    "expires_at": "2099-01-01T00:00:00Z",
                    "limits": {"max_cost": 5, "requests_per_s": 50, "usd_per_day": 2},
                }
            ]
        },
    )

    name: Annotated[str, Field(min_length=1, max_length=128)]
    scopes: Annotated[list[Scope], Field(min_length=1)]
    expires_at: AwareDatetime | None = Field(
        None, description="when it ends by itself; at most 3000-01-01T00:00:00Z"
    )
    limits: TermsIn = TermsIn()


class RotateIn(Strict):
    """How to change a key's secret."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"overlap_s": 86400}]}
    )

    overlap_s: float = Field(
        86400, ge=0, strict=True, description="how long the old secret stays valid"
    )


class KeyOut(BaseModel):
    """A key without its secret."""

    id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    old_secret_until: datetime | None = Field(description="until when the secret before is valid")
    limits: TermsIn
    version: int


class DayOut(BaseModel):
    """What a key used on one day (UTC)."""

    day: date
    requests: int
    usd: float


class UsageOut(BaseModel):
    """What a key used, newest day first, at most half a second old."""

    key: str
    usd_per_day: float | None
    unspent_usd: float | None = Field(description="of today; what gateways hold counts as spent")
    days: list[DayOut]


class KeyCreated(BaseModel):
    """The only time that a key's secret is shown."""

    key: str


class KeyList(BaseModel):
    """Every key, revoked ones too."""

    keys: list[KeyOut]
    next: Next = None


class RouteIn(Strict):
    """A dry run: the constraints travel in the same headers as for `/infer`."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"model": "fashion"}]}
    )

    model: Name
    rows: Annotated[int, Field(ge=1, le=1024)] = 1


class RejectionOut(BaseModel):
    """One reason why a variant may not answer. Latency limits are in seconds."""

    bound: str
    limit: float | None
    found: float | None
    detail: str


class VerdictOut(BaseModel):
    """One candidate with its estimate and every reason against it."""

    variant: str
    feasible: bool
    predicted_latency_ms: float | None = Field(description="under the present load")
    idle_latency_ms: float | None
    cost_usd_per_million: float | None
    accuracy: float | None
    accuracy_low: float | None = Field(description="lower 95 % bound")
    rejections: list[RejectionOut]


class RelaxationOut(BaseModel):
    """The cheapest single change that makes a variant feasible."""

    bound: str
    limit: float
    needed: float
    variant: str
    sentence: str


class DecisionOut(BaseModel):
    """What was decided and why."""

    id: str | None = None
    outcome: str
    objective: str = Field(description="accuracy, cost, latency, or `weighted` with its weights")
    preferred: str | None
    reason: str | None
    eligible: list[str]
    violated: list[str]
    binding: str | None
    relaxation: RelaxationOut | None
    retry_after_s: float | None
    message: str
    feasible: int
    considered: int
    candidates: list[VerdictOut]


class DecisionRecordOut(DecisionOut):
    """A past decision with what came of it."""

    model: str
    variant: str | None = Field(description="the variant that answered, if any")
    cascade: Cascade | None = Field(None, description="the cascade that was asked, if any")
    queue_ms: float | None
    run_ms: float | None
    total_ms: float | None


class Health(BaseModel):
    """Alive or ready, in one word; `registry` says what is wrong with it while something is."""

    status: str
    registry: str | None = None


class ProblemOut(BaseModel):
    """RFC 9457 problem document; more members where they help."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str


def decision_json(decision: Decision, *, id: str | None = None) -> dict[str, Any]:
    """A decision as plain data, in the shape of `DecisionOut`."""
    return {
        "id": id,
        "outcome": decision.outcome,
        "objective": str(decision.objective),
        "preferred": decision.preferred,
        "reason": decision.reason,
        "eligible": decision.eligible,
        "violated": decision.violated,
        "binding": decision.binding,
        "relaxation": relaxation_json(decision.relaxation),
        "retry_after_s": decision.retry_after_s,
        "message": decision.message,
        "feasible": decision.feasible_count,
        "considered": decision.considered,
        "candidates": [verdict_json(verdict) for verdict in decision.verdicts],
    }


def model_out(model: ServedModel, terms: Terms) -> ModelOut:
    """A served model as the API shows it to a key with these terms."""
    name, reference = model.spec.name, model.record.reference
    return ModelOut(
        model=name,
        spec=model.spec,
        reference=reference if reference and terms.allows(name, reference) else None,
        active=sorted(v for v in model.variants if terms.allows(name, v)),
        inactive=sorted(v for v in model.others if terms.allows(name, v)),
    )


def variant_fields(
    record: VariantRecord,
    manifest: Manifest | None,
    *,
    reference: bool,
    workers: int,
    host: str,
    prices: Prices,
) -> dict[str, Any]:
    """The fields of `VariantOut`. `manifest` is None before the variant was profiled."""
    fields: dict[str, Any] = {
        "model": record.model,
        "variant": record.name,
        "state": record.state,
        "reason": record.reason,
        "reference": reference,
        "engaged_on_workers": workers,
        "manifest_id": record.manifest_id,
        "artifact_digest": record.artifact_digest,
        "created_at": record.created_at,
    }
    profile = manifest.profile if manifest is not None else None
    if manifest is None or profile is None:
        return fields
    return fields | {
        "technique": manifest.technique,
        "runtime": manifest.runtime,
        "accuracy": manifest.accuracy,
        "latency_ms": {batch: latency_out(q) for batch, q in profile.latency_s.items()},
        "throughput_per_s": profile.throughput_per_s,
        "cost_usd_per_million": cost_usd_per_million(manifest, prices),
        "size_bytes": manifest.artifact.size_bytes,
        "memory_bytes": profile.memory_bytes,
        "load_s": profile.load_s,
        "measured_here": profile.host == host,
    }


def latency_out(quantiles: Quantiles) -> LatencyOut:
    """Service times in milliseconds."""
    return LatencyOut(p50=quantiles.p50 * 1000, p95=quantiles.p95 * 1000, p99=quantiles.p99 * 1000)


def key_out(key: KeyRecord) -> KeyOut:
    """A key as the API shows it."""
    return KeyOut(
        id=key.id,
        name=key.name,
        scopes=sorted(key.scopes),
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        old_secret_until=key.old_until,
        limits=terms_out(key.terms),
        version=key.version,
    )


def terms_out(terms: Terms) -> TermsIn:
    """A key's limits as the API shows them."""
    return TermsIn(
        allow=None if terms.allow is None else names(terms.allow),
        max_latency_ms=milliseconds(terms.max_latency_s),
        max_cost=terms.max_cost_usd_per_million,
        min_accuracy=terms.min_accuracy,
        max_accuracy_drop=terms.max_accuracy_drop_points,
        requests_per_s=terms.requests_per_s,
        usd_per_day=terms.usd_per_day,
    )


def usage_out(key: str, terms: Terms, days: Sequence[Usage]) -> UsageOut:
    """What a key used as the API shows it; `days` newest first."""
    unspent_usd = terms.usd_per_day
    if unspent_usd is not None and days and days[0].day == today():
        unspent_usd = max(0.0, unspent_usd - days[0].set_aside_usd)
    return UsageOut(
        key=key,
        usd_per_day=terms.usd_per_day,
        unspent_usd=unspent_usd,
        days=[DayOut(day=each.day, requests=each.requests, usd=each.usd) for each in days],
    )
