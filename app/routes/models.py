"""Models and variants: what exists, and their life cycle."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import asdict
from operator import attrgetter
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from app.errors import MAX_DETAIL, Forbidden
from app.paging import USUAL, After, AfterId, Limit, page
from app.routes.guarded import GuardedRoute
from app.schemas import (
    GatesOut,
    HistoryOut,
    ModelList,
    ModelOut,
    PlanIn,
    PromiseOut,
    ReferenceIn,
    RolloutOut,
    VariantDetail,
    VariantIn,
    VariantList,
    VariantOut,
    latency_out,
    model_out,
    variant_fields,
)
from app.services import Parts, Reason, Services, Who
from variants.errors import Invalid, NotFound
from variants.manifest import Manifest
from variants.registry import VariantRecord
from variants.terms import Terms

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=GuardedRoute)

MAX_WAIT_S = 600
Force = Annotated[
    bool, Query(description="even if it is the reference or the last one that can serve")
]
_WAIT = re.compile(r"(?:^|,)\s*wait=(\d{1,4})\s*(?:,|$)")


@router.get("", summary="Every model")
async def list_models(parts: Parts, who: Who, after: After = "", limit: Limit = USUAL) -> ModelList:
    """The models that are served, by name: those that the key may know of."""
    models = parts.engine.catalog.models
    names, more = page(filter(who.terms.allows, models), str, after=after, limit=limit)
    return ModelList(models=[model_out(models[name], who.terms) for name in names], next=more)


@router.get("/{model}", summary="One model")
async def get_model(model: str, parts: Parts, who: Who) -> ModelOut:
    """A model's promise (tensors, labels, preprocessing) and its variants' names."""
    return model_out(parts.engine.catalog.model(model), who.terms)


@router.get("/{model}/variants", summary="A model's variants")
async def list_variants(
    model: str, parts: Parts, who: Who, after: After = "", limit: Limit = USUAL
) -> VariantList:
    """Every variant in any state, by name, with what was measured about it."""
    parts.engine.catalog.model(model)
    return await asyncio.to_thread(_variants, parts, model, who.terms, after, limit)


@router.get("/{model}/variants/{variant}", summary="One variant")
async def get_variant(model: str, variant: str, parts: Parts, who: Who) -> VariantDetail:
    """A variant with its history and lineage; without them for a key of some models only."""
    parts.engine.catalog.model(model)
    found = await asyncio.to_thread(_detail, parts, model, variant)
    if who.terms.allow is None:
        return found
    return found.model_copy(update=_NOT_FOR_SOME)


@router.get("/{model}/variants/{variant}/history", summary="A variant's history")
async def get_history(
    model: str,
    variant: str,
    parts: Parts,
    who: Who,
    after: AfterId = 0,
    limit: Limit = USUAL,
) -> HistoryOut:
    """Who moved it from state to state, when, why and on what evidence; oldest first."""
    if who.terms.allow is not None:
        raise Forbidden("histories name other keys: not for a key of some models only")
    await asyncio.to_thread(parts.data.registry.variant, model, variant)
    found = await asyncio.to_thread(
        parts.data.audit.of, model, variant, after=after, limit=limit + 1
    )
    more = found[limit - 1].id if len(found) > limit else None
    return HistoryOut(history=list(found[:limit]), next=more)


@router.post(
    "/{model}/variants",
    status_code=202,
    summary="Register a variant",
    responses={
        200: {"model": GatesOut, "description": "only validated"},
        201: {"model": VariantDetail, "description": "settled within the wait"},
    },
)
async def register(
    model: str,
    wanted: VariantIn,
    parts: Parts,
    who: Who,
    request: Request,
    response: Response,
    validate: Annotated[
        Literal["only"] | None, Query(description="`only`: say what each gate finds, write nothing")
    ] = None,
) -> VariantDetail | GatesOut:
    """Check, try and profile an uploaded artifact, then activate it, while traffic flows.

    Answers 202 at once; poll `Location`, or follow its `/events`. With `Prefer: wait=SECONDS`
    (RFC 7240) the answer waits, and is 201 once the variant is settled. `then` says what becomes of
    it: it is activated, or tried as a shadow or canary by its `plan`, or waits.
    """
    parts.engine.catalog.model(model)
    if validate is not None:
        findings = await parts.registration.validate(model, wanted)
        response.status_code = 200
        passed = all(finding.outcome in ("passed", "skipped") for finding in findings)
        return GatesOut(passed=passed, gates=list(findings))
    task = await parts.registration.register(model, wanted, who.name)
    response.headers["Location"] = f"/v1/models/{model}/variants/{wanted.name}"
    if wait := _WAIT.search(request.headers.get("prefer", "")):
        response.headers["Preference-Applied"] = f"wait={wait[1]}"
        done = await parts.registration.settled(task, min(int(wait[1]), MAX_WAIT_S))
        response.status_code = 201 if done else 202
    return await asyncio.to_thread(_detail, parts, model, wanted.name)


@router.get(
    "/{model}/variants/{variant}/events",
    summary="Follow a registration",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def get_events(model: str, variant: str, parts: Parts, who: Who) -> StreamingResponse:
    """Server-sent events of its state and progress; they end when it is settled.

    Source: WHATWG HTML standard, section "Server-sent events".
    """
    if who.terms.allow is not None:
        raise Forbidden("events name other variants: not for a key of some models only")
    found = await parts.registration.follow(model, variant)
    return StreamingResponse(_events(parts, found), media_type="text/event-stream")


@router.post("/{model}/variants/{variant}/activate", summary="Activate a variant")
async def activate(
    model: str, variant: str, parts: Parts, who: Who, reason: Reason = ""
) -> VariantDetail:
    """Load and warm it on the workers, then route to it. Activating an active one is a no-op.

    This promotes a shadow or canary at once.
    """
    parts.engine.catalog.model(model)
    await parts.switches.activate(model, variant, who.name, reason=reason)
    return await asyncio.to_thread(_detail, parts, model, variant)


@router.post("/{model}/variants/{variant}/shadow", summary="Try a variant on copies of requests")
async def shadow(
    model: str, variant: str, wanted: PlanIn, parts: Parts, who: Who, reason: Reason = ""
) -> VariantDetail:
    """Run it beside the others on a share of the live inputs, when nothing else needs the machine.

    No caller sees its answers. A canary goes back to this at once; a shadow goes on with the new
    plan, its counts beginning anew. A model has one shadow or canary at a time.
    """
    parts.engine.catalog.model(model)
    plan = wanted.plan()
    await parts.switches.try_out(model, variant, "shadow", plan, who.name, reason=reason)
    return await asyncio.to_thread(_detail, parts, model, variant)


@router.post("/{model}/variants/{variant}/canary", summary="Give a variant a share of requests")
async def canary(
    model: str, variant: str, wanted: PlanIn, parts: Parts, who: Who, reason: Reason = ""
) -> VariantDetail:
    """Route a share of the requests to it that it suits; promote or demote it by the criteria."""
    parts.engine.catalog.model(model)
    plan = wanted.plan()
    await parts.switches.try_out(model, variant, "canary", plan, who.name, reason=reason)
    return await asyncio.to_thread(_detail, parts, model, variant)


@router.post("/{model}/variants/{variant}/deactivate", summary="Deactivate a variant")
async def deactivate(
    model: str,
    variant: str,
    parts: Parts,
    who: Who,
    force: Force = False,
    reason: Reason = "",
) -> VariantDetail:
    """Stop routing to it, finish what was admitted, unload it. No request fails by this.

    This rolls a shadow or canary back at once.
    """
    parts.engine.catalog.model(model)
    await parts.switches.deactivate(model, variant, who.name, force=force, reason=reason)
    return await asyncio.to_thread(_detail, parts, model, variant)


@router.post("/{model}/variants/{variant}/retire", summary="Retire a variant")
async def retire(
    model: str,
    variant: str,
    parts: Parts,
    who: Who,
    force: Force = False,
    reason: Reason = "",
) -> VariantDetail:
    """Deactivate it for good. Its record stays; its artifact may be swept."""
    parts.engine.catalog.model(model)
    await parts.switches.retire(model, variant, who.name, force=force, reason=reason)
    return await asyncio.to_thread(_detail, parts, model, variant)


@router.put("/{model}/reference", summary="Set the reference")
async def set_reference(
    model: str, wanted: ReferenceIn, parts: Parts, who: Who, reason: Reason = ""
) -> ModelOut:
    """Count accuracy drops from this active variant."""
    parts.engine.catalog.model(model)
    await parts.switches.set_reference(model, wanted.variant, who.name, reason=reason)
    return model_out(parts.engine.catalog.model(model), who.terms)


async def _events(parts: Services, found: AsyncIterator[VariantRecord]) -> AsyncIterator[bytes]:
    async for record in found:
        step = parts.registration.step(record.model, record.name)
        content = {
            "state": record.state,
            "reason": record.reason,
            "doing": None if step is None else step.doing,
            "share": None if step is None else step.share,
        }
        yield b"event: state\ndata: " + orjson.dumps(content) + b"\n\n"


_NOT_FOR_SOME: dict[str, Any] = {
    "reason": "",
    "parent": None,
    "cascades": [],
    "rollout": None,
    "history": [],
}
"""What may name other variants or other keys, as a key of some models only sees it."""


def _variants(parts: Services, model: str, terms: Terms, after: str, limit: int) -> VariantList:
    found = parts.data.registry.variants(model)
    allowed = (record for record in found if terms.allows(model, record.name))
    records, more = page(allowed, attrgetter("name"), after=after, limit=limit)
    hidden = {} if terms.allow is None else {"reason": ""}
    return VariantList(
        variants=[VariantOut(**_fields(parts, r, *_manifest(parts, r)) | hidden) for r in records],
        next=more,
    )


def _detail(parts: Services, model: str, variant: str) -> VariantDetail:
    record = parts.data.registry.variant(model, variant)
    manifest, error = _manifest(parts, record)
    return VariantDetail(
        **_fields(parts, record, manifest, error),
        parent=manifest.parent if manifest is not None else None,
        recipe=list(manifest.recipe) if manifest is not None else [],
        evaluation=manifest.evaluation if manifest is not None else None,
        sensitivity=list(manifest.sensitivity) if manifest is not None else [],
        cascades=list(manifest.cascades) if manifest is not None else [],
        promise=_promise(parts, manifest),
        rollout=_rollout(parts, model, variant),
        history=list(parts.data.audit.latest(model, variant)),
    )


def _promise(parts: Services, manifest: Manifest | None) -> PromiseOut | None:
    found = None if manifest is None else parts.promises.standing(manifest)
    if found is None:
        return None
    return PromiseOut(**asdict(found), broken=found.broken, own_doing=found.own_doing)


def _rollout(parts: Services, model: str, variant: str) -> RolloutOut | None:
    trial = parts.rollouts.trial(model)
    if trial is None or trial.rollout.name != variant:
        return None
    verdict, findings = trial.judge()
    seen, latency_s = trial.seen, trial.latency_s
    return RolloutOut(
        plan=trial.rollout.plan,
        verdict=verdict,
        findings=list(findings),
        runs=seen.failed.n,
        failed=seen.failed.hits,
        compared=seen.agreed.n,
        agreed=seen.agreed.hits,
        skipped=trial.skipped,
        latency_ms=None if latency_s is None else latency_out(latency_s),
    )


def _manifest(parts: Services, record: VariantRecord) -> tuple[Manifest | None, str | None]:
    """A variant's manifest, or why it cannot be read."""
    if record.manifest_id is None:
        return None, None
    try:
        return parts.data.store.manifest(record.manifest_id), None
    except (Invalid, NotFound) as error:
        return None, str(error)[:MAX_DETAIL]


def _fields(
    parts: Services, record: VariantRecord, manifest: Manifest | None, error: str | None
) -> dict[str, Any]:
    served = parts.engine.catalog.model(record.model)
    fields = variant_fields(
        record,
        manifest,
        reference=served.record.reference == record.name,
        workers=0 if record.manifest_id is None else parts.engine.pool.copies(record.manifest_id),
        host=parts.host,
        prices=parts.settings.prices.prices(),
    )
    return fields | {"manifest_error": error}
