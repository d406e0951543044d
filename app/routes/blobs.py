"""Uploads: a raw `PUT` under the digest that the bytes must have."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from app.http_edge import body_chunks
from app.routes.guarded import GuardedRoute
from app.schemas import BlobOut
from app.services import Parts

router = APIRouter(prefix="/v1/blobs", tags=["admin"], route_class=GuardedRoute)

UPLOAD_TIMEOUT_S = 3600.0
Sha256 = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 in lower-case hex")]


@router.put(
    "/{digest}",
    status_code=201,
    summary="Upload an artifact",
    responses={200: {"model": BlobOut, "description": "the blob was here already"}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        }
    },
)
async def put_blob(digest: Sha256, request: Request, response: Response, parts: Parts) -> BlobOut:
    """Store the raw bytes; they are kept only if their SHA-256 is the one in the path."""
    store = parts.data.store
    if store.has_blob(digest):
        response.status_code = 200
        return BlobOut(digest=digest, size_bytes=store.blob_size(digest))
    with store.incoming() as blob:
        async for chunk in body_chunks(
            request.scope,
            request.receive,
            max_bytes=parts.settings.max_blob_bytes,
            timeout_s=UPLOAD_TIMEOUT_S,
        ):
            await asyncio.to_thread(blob.write, chunk)
        await asyncio.to_thread(blob.publish, digest)
        parts.metrics.uploaded("ok", blob.size_bytes)
        return BlobOut(digest=digest, size_bytes=blob.size_bytes)
