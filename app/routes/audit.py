"""The audit: every admin change, append-only, as JSON lines."""

import asyncio
from itertools import chain, islice

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from app.paging import AfterId, Limit
from app.routes.guarded import GuardedRoute
from app.services import Parts
from variants.audit import json_line

router = APIRouter(prefix="/v1/audit", tags=["admin"], route_class=GuardedRoute)

JSON_LINES = {"schema": {"type": "string"}, "example": '{"id": 1, "action": "key.create"}\n'}


@router.get(
    "",
    summary="The audit",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/jsonl": JSON_LINES}}},
)
async def get_audit(
    parts: Parts, after: AfterId = 0, limit: Limit | None = None
) -> StreamingResponse:
    """Who changed what, when, why and on what evidence: one JSON object a line, oldest first.

    Without a `limit` all of it is streamed; for the lines that follow, ask again `after` the last
    one's id.
    """
    lines = (json_line(entry) for entry in islice(parts.data.audit.after(after), limit))
    first = await asyncio.to_thread(next, lines, b"")  # or its refusal would come too late
    return StreamingResponse(chain((first,), lines), media_type="application/jsonl")
