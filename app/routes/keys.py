"""API keys: made once, shown once, revoked at once."""

import asyncio

from fastapi import APIRouter, Response

from app.routes.guarded import GuardedRoute
from app.schemas import KeyCreated, KeyIn, KeyList, key_out
from app.services import Parts, Who

router = APIRouter(prefix="/v1/keys", tags=["admin"], route_class=GuardedRoute)


@router.get("", summary="Every key")
async def list_keys(parts: Parts) -> KeyList:
    """Names, scopes and ages; never a secret."""
    keys = await asyncio.to_thread(parts.data.keys.all)
    return KeyList(keys=[key_out(key) for key in keys])


@router.post("", status_code=201, summary="Make a key")
async def create_key(wanted: KeyIn, parts: Parts, who: Who) -> KeyCreated:
    """A new key. It cannot be shown again."""
    key = await asyncio.to_thread(
        parts.keys.create, wanted.name, frozenset(wanted.scopes), actor=who.name
    )
    return KeyCreated(key=key)


@router.delete("/{id}", status_code=204, summary="Revoke a key")
async def revoke_key(id: str, parts: Parts, who: Who) -> Response:
    """End a key; the next request with it is refused. The last admin key stays."""
    await asyncio.to_thread(parts.keys.revoke, id, actor=who.name)
    return Response(status_code=204)
