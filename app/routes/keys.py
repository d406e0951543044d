"""API keys: made once, shown once, rotated, revoked at once; and what they used."""

import asyncio
from datetime import UTC
from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.paging import USUAL, After, Limit, page
from app.routes.guarded import GuardedRoute
from app.schemas import (
    KeyCreated,
    KeyIn,
    KeyList,
    RotateIn,
    UsageOut,
    key_out,
    usage_out,
)
from app.services import Parts, Reason, Services, Who
from variants.errors import NotFound
from variants.key_table import KeyRecord
from variants.terms import Terms

router = APIRouter(prefix="/v1", tags=["keys"], route_class=GuardedRoute)

Days = Annotated[int, Query(ge=1, le=366, description="how many days with usage, newest first")]


@router.get("/keys", summary="Every key")
async def list_keys(parts: Parts, after: After = "", limit: Limit = USUAL) -> KeyList:
    """Names, scopes, limits and ages, oldest first; never a secret."""
    keys = await asyncio.to_thread(parts.data.keys.all)
    shown, more = page(keys, _age, after=after, limit=limit)
    return KeyList(keys=[key_out(key) for key in shown], next=more)


@router.post("/keys", status_code=201, summary="Make a key")
async def create_key(wanted: KeyIn, parts: Parts, who: Who) -> KeyCreated:
    """A new key. It cannot be shown again."""
    key = await asyncio.to_thread(
        parts.keys.create,
        wanted.name,
        frozenset(wanted.scopes),
        actor=who.name,
        terms=wanted.limits.terms(),
        expires_at=wanted.expires_at,
    )
    await parts.ledger.book()
    return KeyCreated(key=key)


@router.post("/keys/{id}/rotate", summary="Rotate a key")
async def rotate_key(
    id: str, wanted: RotateIn, parts: Parts, who: Who, reason: Reason = ""
) -> KeyCreated:
    """A new secret for a key, with the same id and limits. The old one stays valid for a while.

    Rotating again within that time ends the older secret at once.
    """
    key = await asyncio.to_thread(
        parts.keys.rotate, id, overlap_s=wanted.overlap_s, actor=who.name, reason=reason
    )
    return KeyCreated(key=key)


@router.delete("/keys/{id}", status_code=204, summary="Revoke a key")
async def revoke_key(
    id: str,
    parts: Parts,
    who: Who,
    force: Annotated[bool, Query(description="even the last admin key")] = False,
    reason: Reason = "",
) -> Response:
    """End a key; the next request with it is refused. The last admin key stays, unless forced."""
    await asyncio.to_thread(parts.keys.revoke, id, actor=who.name, force=force, reason=reason)
    return Response(status_code=204)


@router.get("/keys/{id}/usage", summary="What a key used")
async def get_key_usage(id: str, parts: Parts, days: Days = 31) -> UsageOut:
    """Requests and dollars by day, also of a key that has ended."""
    keys = {key.id: key for key in await asyncio.to_thread(parts.data.keys.all)}
    if id not in keys:
        raise NotFound(f"no key {id[:80]!r}")
    return await _usage(parts, id, keys[id].terms, days)


@router.get("/usage", summary="What the caller used")
async def get_usage(parts: Parts, who: Who, days: Days = 31) -> UsageOut:
    """Requests and dollars by day of the key that asks."""
    return await _usage(parts, who.id, who.terms, days)


def _age(key: KeyRecord) -> str:
    return f"{key.created_at.astimezone(UTC):%Y%m%dT%H%M%S%f}-{key.id}"


async def _usage(parts: Services, id: str, terms: Terms, days: int) -> UsageOut:
    await parts.ledger.book()
    found = await asyncio.to_thread(parts.data.usage.of, id, days=days)
    return usage_out(id, terms, found)
