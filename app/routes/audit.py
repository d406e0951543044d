"""The audit: every admin change, append-only, as JSON lines."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from app.routes.guarded import GuardedRoute
from app.services import Parts
from variants.audit import json_line

router = APIRouter(prefix="/v1/audit", tags=["admin"], route_class=GuardedRoute)

After = Annotated[int, Query(ge=0, lt=2**31, description="only lines with a larger id")]

JSON_LINES = {"schema": {"type": "string"}, "example": '{"id": 1, "action": "key.create"}\n'}


@router.get(
    "",
    summary="The audit",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/jsonl": JSON_LINES}}},
)
async def get_audit(parts: Parts, after: After = 0) -> StreamingResponse:
    """Who changed what, when, why and on what evidence: one JSON object a line, oldest first."""
    lines = (json_line(entry) for entry in parts.data.audit.after(after))
    return StreamingResponse(lines, media_type="application/jsonl")
