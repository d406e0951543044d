"""Models and variants: what exists, and their life cycle."""

import asyncio
import re
from typing import Any

from fastapi import APIRouter, Request, Response

from app.errors import Forbidden
from app.routes.guarded import GuardedRoute
from app.schemas import (
    HistoryOut,
    ModelList,
    ModelOut,
    ReferenceIn,
    VariantDetail,
    VariantIn,
    VariantList,
    VariantOut,
    model_out,
    variant_fields,
)
from app.services import Parts, Services, Who
from variants.manifest import Manifest
from variants.registry import VariantRecord
from variants.terms import Terms

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=GuardedRoute)

MAX_WAIT_S = 600
_WAIT = re.compile(r"(?:^|,)\s*wait=(\d{1,4})\s*(?:,|$)")


@router.get("", summary="Every model")
async def list_models(parts: Parts, who: Who) -> ModelList:
    """The models that are served, by name: those that the key may know of."""
    models = parts.engine.catalog.models
    names = sorted(filter(who.terms.allows, models))
    return ModelList(models=[model_out(models[name], who.terms) for name in names])


@router.get("/{model}", summary="One model")
async def get_model(model: str, parts: Parts, who: Who) -> ModelOut:
    """A model's promise (tensors, labels, preprocessing) and its variants' names."""
    return model_out(parts.engine.catalog.model(model), who.terms)


@router.get("/{model}/variants", summary="A model's variants")
async def list_variants(model: str, parts: Parts, who: Who) -> VariantList:
    """Every variant in any state, with what was measured about it."""
    parts.engine.catalog.model(model)
    return await asyncio.to_thread(_variants, parts, model, who.terms)


@router.get("/{model}/variants/{variant}", summary="One variant")
async def get_variant(model: str, variant: str, parts: Parts, who: Who) -> VariantDetail:
    """A variant with its history and lineage; without them for a key of some models only."""
    parts.engine.catalog.model(model)
    found = await asyncio.to_thread(_detail, parts, model, variant)
    if who.terms.allow is None:
        return found
    return found.model_copy(update={"parent": None, "cascades": [], "history": []})


@router.get("/{model}/variants/{variant}/history", summary="A variant's history")
async def get_history(model: str, variant: str, parts: Parts, who: Who) -> HistoryOut:
    """Who moved it from state to state, when, why and on what evidence; oldest first."""
    if who.terms.allow is not None:
        raise Forbidden("histories name other keys: not for a key of some models only")
    await asyncio.to_thread(parts.data.registry.variant, model, variant)
    found = await asyncio.to_thread(parts.data.audit.of, model, variant)
    return HistoryOut(history=list(found))


@router.post(
    "/{model}/variants",
    status_code=202,
    summary="Register a variant",
    responses={201: {"model": VariantDetail, "description": "settled within the wait"}},
)
async def register(
    model: str, wanted: VariantIn, parts: Parts, who: Who, request: Request, response: Response
) -> VariantDetail:
    """Check, try and profile an uploaded artifact, then activate it, while traffic flows.

    Answers 202 at once; poll `Location`. With `Prefer: wait=SECONDS` (RFC 7240) the answer waits,
    and is 201 once the variant is active, inactive or failed.
    """
    parts.engine.catalog.model(model)
    task = await parts.registration.register(model, wanted, who.name)
    response.headers["Location"] = f"/v1/models/{model}/variants/{wanted.name}"
    if wait := _WAIT.search(request.headers.get("prefer", "")):
        response.headers["Preference-Applied"] = f"wait={wait[1]}"
        done, _ = await asyncio.wait({task}, timeout=min(int(wait[1]), MAX_WAIT_S))
        response.status_code = 201 if done else 202
    return await asyncio.to_thread(_detail, parts, model, wanted.name)


@router.post("/{model}/variants/{variant}/activate", summary="Activate a variant")
async def activate(model: str, variant: str, parts: Parts, who: Who) -> VariantDetail:
    """Load and warm it on the workers, then route to it. Activating an active one is a no-op."""
    parts.engine.catalog.model(model)
    await parts.registration.activate(model, variant, who.name)
    return await asyncio.to_thread(_detail, parts, model, variant)


@router.post("/{model}/variants/{variant}/deactivate", summary="Deactivate a variant")
async def deactivate(model: str, variant: str, parts: Parts, who: Who) -> VariantDetail:
    """Stop routing to it, finish what was admitted, unload it. No request fails by this."""
    parts.engine.catalog.model(model)
    await parts.registration.deactivate(model, variant, who.name)
    return await asyncio.to_thread(_detail, parts, model, variant)


@router.put("/{model}/reference", summary="Set the reference")
async def set_reference(model: str, wanted: ReferenceIn, parts: Parts, who: Who) -> ModelOut:
    """Count accuracy drops from this active variant."""
    parts.engine.catalog.model(model)
    await parts.registration.set_reference(model, wanted.variant, who.name)
    return model_out(parts.engine.catalog.model(model), who.terms)


def _variants(parts: Services, model: str, terms: Terms) -> VariantList:
    found = parts.data.registry.variants(model)
    records = [record for record in found if terms.allows(model, record.name)]
    return VariantList(
        variants=[VariantOut(**_fields(parts, r, _manifest(parts, r))) for r in records]
    )


def _detail(parts: Services, model: str, variant: str) -> VariantDetail:
    record = parts.data.registry.variant(model, variant)
    manifest = _manifest(parts, record)
    return VariantDetail(
        **_fields(parts, record, manifest),
        parent=manifest.parent if manifest is not None else None,
        recipe=list(manifest.recipe) if manifest is not None else [],
        evaluation=manifest.evaluation if manifest is not None else None,
        sensitivity=list(manifest.sensitivity) if manifest is not None else [],
        cascades=list(manifest.cascades) if manifest is not None else [],
        history=list(parts.data.audit.of(model, variant)),
    )


def _manifest(parts: Services, record: VariantRecord) -> Manifest | None:
    return None if record.manifest_id is None else parts.data.store.manifest(record.manifest_id)


def _fields(parts: Services, record: VariantRecord, manifest: Manifest | None) -> dict[str, Any]:
    served = parts.engine.catalog.model(record.model)
    return variant_fields(
        record,
        manifest,
        reference=served.record.reference == record.name,
        workers=sum(record.manifest_id in slot.loaded for slot in parts.engine.slots),
        host=parts.host,
        prices=parts.settings.prices.prices(),
    )
