"""Uploads: raw bytes under the digest that they must have, at once or in parts.

`PUT` sends all: they are kept whole or not at all. `PATCH` appends, and what arrives is kept when
the connection breaks; `GET` or `HEAD` says how far it got. Source of the header fields:
draft-ietf-httpbis-resumable-upload.
"""

from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response

from app.errors import OffsetMismatch, TooLarge
from app.http_edge import body_chunks, header_values
from app.routes.guarded import GuardedRoute
from app.schemas import BlobOut
from app.services import Parts, Services, Who
from variants.errors import Invalid, NotFound

router = APIRouter(prefix="/v1/blobs", tags=["admin"], route_class=GuardedRoute)

LEAST_BYTES_PER_S = 1024.0
"""Slower ones hold a place that others want: four pauses are allowed beyond this pace."""

Sha256 = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 in lower-case hex")]
Offset = Annotated[
    int, Header(alias="Upload-Offset", ge=0, description="bytes that are here already")
]
Complete = Annotated[
    str,
    Header(
        alias="Upload-Complete",
        pattern=r"^\?[01]$",
        description="?1 where nothing follows, ?0 where more will",
    ),
]


def _body(media_type: str) -> dict[str, Any]:
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {"requestBody": {"required": True, "content": content}}


async def get_blob(digest: Sha256, response: Response, parts: Parts, who: Who) -> BlobOut:
    """Whether the blob is here, and how far this key's upload of it got."""
    response.headers["Upload-Limit"] = f"max-size={parts.settings.max_blob_bytes}"
    if (size_bytes := await _stored(parts, digest)) is not None:
        return _told(response, digest, size_bytes, complete=True)
    offset = parts.receiving.uploads.offset(who.id, digest)
    if offset is None:
        raise NotFound(f"no blob {digest}")
    return _told(response, digest, offset, complete=False)


router.add_api_route("/{digest}", get_blob, methods=["GET"], summary="A blob, or how far it got")
router.add_api_route("/{digest}", get_blob, methods=["HEAD"], include_in_schema=False)


@router.put(
    "/{digest}",
    status_code=201,
    summary="Upload an artifact",
    responses={200: {"model": BlobOut, "description": "the blob was here already"}},
    openapi_extra=_body("application/octet-stream"),
)
async def put_blob(
    digest: Sha256, request: Request, response: Response, parts: Parts, who: Who
) -> BlobOut:
    """Store the raw bytes; they are kept only if their SHA-256 is the one in the path."""
    return await _receive(digest, request, response, parts, who, offset=None, complete=True)


@router.patch(
    "/{digest}",
    status_code=201,
    summary="Go on with an upload",
    responses={
        200: {"model": BlobOut, "description": "the blob was here already"},
        202: {"model": BlobOut, "description": "more is to follow"},
    },
    openapi_extra=_body("application/octet-stream"),
)
async def patch_blob(
    digest: Sha256,
    request: Request,
    response: Response,
    parts: Parts,
    who: Who,
    offset: Offset,
    complete: Complete = "?1",
) -> BlobOut:
    """Append to this key's upload; without one, begin it at offset 0.

    What arrived before a broken connection is kept for a day. The bytes are checked when the last
    part is here; those that have another digest are forgotten.
    """
    return await _receive(
        digest, request, response, parts, who, offset=offset, complete=complete == "?1"
    )


@router.delete("/{digest}", status_code=204, summary="Cancel an upload")
async def cancel_upload(digest: Sha256, parts: Parts, who: Who) -> Response:
    """Forget what this key has sent of a blob that is not whole. Whole blobs stay."""
    if not parts.receiving.uploads.discard(who.id, digest):
        raise NotFound(f"no upload of {digest}")
    return Response(status_code=204)


async def _receive(
    digest: str,
    request: Request,
    response: Response,
    parts: Parts,
    who: Who,
    *,
    offset: int | None,
    complete: bool,
) -> BlobOut:
    """Take the body in: all of the blob (`offset` None), or what follows the bytes so far."""
    receiving, settings = parts.receiving, parts.settings
    store, size_bytes = parts.data.store, await _stored(parts, digest)
    # One that is damaged is replaced by what is sent now.
    if size_bytes is not None and await receiving.on_thread(store.touch, digest):
        response.status_code = 200
        return _told(response, digest, size_bytes, complete=True)
    uploads = receiving.uploads
    arriving = uploads.at_once if offset is None else uploads.open
    with receiving.admitted(who.id) as place, arriving(who.id, digest) as partial:
        if offset is not None and offset != partial.size_bytes:
            raise OffsetMismatch(offset, partial.size_bytes)
        room = settings.max_blob_bytes - partial.size_bytes
        declared = (
            int(found[0]) if (found := header_values(request.scope, b"content-length")) else None
        )
        if declared is not None and declared > room:
            raise TooLarge(f"an artifact may have {settings.max_blob_bytes} bytes")
        chunks = body_chunks(
            request.scope,
            request.receive,
            max_bytes=room,
            timeout_s=4 * settings.body_timeout_s,
            pause_s=settings.body_timeout_s,
            least_bytes_per_s=LEAST_BYTES_PER_S,
        )
        try:
            await place.take(partial, chunks, declared)
            if complete:
                await receiving.on_thread(partial.finish)
        except BaseException as error:
            parts.metrics.uploaded(_outcome(error), partial.size_bytes)
            raise
        if not complete:
            response.status_code = 202
            return _told(response, digest, partial.size_bytes, complete=False)
        parts.metrics.uploaded("ok", partial.size_bytes)
        return _told(response, digest, partial.size_bytes, complete=True)


async def _stored(parts: Services, digest: str) -> int | None:
    """The size of a blob that is here, or in the bucket behind the store."""
    with suppress(NotFound):
        return await parts.receiving.on_thread(parts.data.store.blob_size, digest)
    return None


def _told(response: Response, digest: str, size_bytes: int, *, complete: bool) -> BlobOut:
    response.headers["Upload-Offset"] = str(size_bytes)
    response.headers["Upload-Complete"] = "?1" if complete else "?0"
    return BlobOut(digest=digest, size_bytes=size_bytes, complete=complete)


def _outcome(error: BaseException) -> str:
    return "mismatch" if isinstance(error, Invalid) else "broken_off"
