"""Dry runs and past decisions."""

from fastapi import APIRouter, Request

from app import headers
from app.errors import TensorMismatch, milliseconds
from app.routes.guarded import GuardedRoute
from app.schemas import DecisionOut, DecisionRecordOut, RouteIn, decision_json
from app.services import Parts

router = APIRouter(prefix="/v1", tags=["decisions"], route_class=GuardedRoute)


@router.post("/route", summary="Dry run of the router")
async def route(wanted: RouteIn, request: Request, parts: Parts) -> DecisionOut:
    """What `/infer` would decide now, with every candidate's estimate and every rejection."""
    asked = headers.parse(request.scope["headers"], max_latency_s=parts.settings.max_latency_s)
    model = parts.gateway.model(wanted.model)
    if wanted.rows > model.spec.max_batch:
        raise TensorMismatch(f"rows is {wanted.rows}; at most {model.spec.max_batch}", field="rows")
    decision = parts.gateway.route(model, asked.constraints, wanted.rows)
    return DecisionOut.model_validate(decision_json(decision))


@router.get("/decisions/{id}", summary="A past decision")
async def get_decision(id: str, parts: Parts) -> DecisionRecordOut:
    """Why a recent request went where it went; the id is in its `Infer-Decision` header."""
    record = parts.decisions.get(id)
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
