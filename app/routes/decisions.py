"""Dry runs and past decisions."""

from fastapi import APIRouter, Request

from app import headers
from app.errors import TensorMismatch, milliseconds
from app.routes.guarded import GuardedRoute
from app.schemas import DecisionOut, DecisionRecordOut, RouteIn, decision_json
from app.services import Parts, Who
from router.narrow import narrow
from variants.errors import ModelNotFound

router = APIRouter(prefix="/v1", tags=["decisions"], route_class=GuardedRoute)


@router.post("/route", summary="Dry run of the router")
async def route(wanted: RouteIn, request: Request, parts: Parts, who: Who) -> DecisionOut:
    """What `/infer` would decide now, with every candidate's estimate and every rejection."""
    asked = headers.parse(request.scope["headers"], max_latency_s=parts.settings.max_latency_s)
    if not who.terms.allows(wanted.model):
        raise ModelNotFound(wanted.model)
    model = parts.gateway.model(wanted.model)
    if wanted.rows > model.spec.max_batch:
        raise TensorMismatch(f"rows is {wanted.rows}; at most {model.spec.max_batch}", field="rows")
    narrowed = narrow(asked.constraints, who.terms)
    request.scope["gearshift.lines"] = lambda: headers.effective(narrowed) + who.lines()
    decision = parts.gateway.route(
        model, narrowed.constraints, wanted.rows, who.terms.variants_of(wanted.model)
    )
    return DecisionOut.model_validate(decision_json(decision))


@router.get("/decisions/{id}", summary="A past decision")
async def get_decision(id: str, parts: Parts, who: Who) -> DecisionRecordOut:
    """Why a recent request went where it went; the id is in its `Infer-Decision` header.

    A key that is limited to some models sees the decisions on its own requests only.
    """
    record = parts.decisions.get(id)
    if who.terms.allow is not None and record.caller.id != who.id:
        raise parts.decisions.unknown(id)
    return DecisionRecordOut.model_validate(
        {
            **decision_json(record.decision, id=record.id),
            "model": record.model,
            "variant": record.variant,
            "cascade": record.cascade,
            "queue_ms": milliseconds(record.queue_s),
            "run_ms": milliseconds(record.run_s),
            "total_ms": milliseconds(record.total_s),
        }
    )
