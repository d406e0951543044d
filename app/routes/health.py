"""Probes and metrics."""

import asyncio

from fastapi import APIRouter, Response

from app.routes.guarded import GuardedRoute
from app.schemas import Health
from app.services import Parts

router = APIRouter(tags=["operations"], route_class=GuardedRoute)


@router.get("/healthz", summary="Alive")
async def healthz() -> Health:
    """The event loop answers; nothing else is checked, so that a restart never makes it worse."""
    return Health(status="ok")


@router.get("/readyz", summary="Ready", responses={503: {"model": Health}})
async def readyz(parts: Parts, response: Response) -> Health:
    """A worker has every active variant loaded, and the gateway is not shutting down.

    A registry that is gone does not matter here: what is loaded goes on serving.
    """
    registry = parts.changes.trouble or None
    if parts.engine.ready:
        return Health(status="ready", registry=registry)
    response.status_code = 503
    response.headers["Retry-After"] = "1"
    return Health(status="not ready", registry=registry)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(parts: Parts) -> Response:
    """The text exposition format 0.0.4."""
    parts.metrics.gauges(
        ready=parts.engine.ready,
        draining=parts.engine.draining,
        queue_depths=parts.engine.queue_depths(),
        queue_fill=parts.gateway.queue_fill(),
        workers=parts.engine.pool.memory(),
        files=parts.engine.pool.files(),
        active=parts.engine.health(),
        drift=parts.engine.drift(),
        copies=parts.engine.copies(),
        rungs=parts.gateway.rungs(),
        broken=parts.promises.broken(),
    )
    text = await asyncio.to_thread(parts.metrics.render)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
