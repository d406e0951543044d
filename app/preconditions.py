"""`ETag`, `If-None-Match` and `If-Match` on control routes, in one place for all of them.

A tag is `"7-3f2a…"`: the version of the model, variant or key that the path names, and a digest of
what was shown. `If-None-Match` compares all of it and saves the body; `If-Match` compares the
version, claims it before anything is done, and lets one of two callers pass who saw the same.
Source: RFC 9110, section 13.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable

from fastapi import Request, Response

from app.errors import Malformed, PreconditionFailed
from app.http_edge import header_values
from app.services import services
from variants import versions
from variants.errors import NotFound, RegistryUnavailable
from variants.versions import Resource

Handle = Callable[[Request], Awaitable[Response]]

_TAG = r'(?:W/)?"[\x21\x23-\x7e]*"'
_TAGS = re.compile(rf"\s*{_TAG}(?:\s*,\s*{_TAG})*\s*")
_STRONG = re.compile(r'(?:^|[\s,])"(\d{1,18})(?:-[0-9a-f]*)?"')


def conditional(handle: Handle) -> Handle:
    """The same handler behind the preconditions of its request, with a tag on its answer.

    Raises `PreconditionFailed`, `NotFound`, or `Malformed` for a header that is no list of tags.
    """

    async def checked(request: Request) -> Response:
        resource = _resource(request)
        if request.method not in ("GET", "HEAD"):
            await _claim(request, resource)
        response = await handle(request)
        return await _tagged(request, resource, response)

    return checked


def _resource(request: Request) -> Resource | None:
    """What the path names, the last name of it."""
    named = request.path_params
    if "variant" in named:
        return Resource(
            kind="variant", names=(("model", named["model"]), ("name", named["variant"]))
        )
    if "model" in named:
        return Resource(kind="model", names=(("name", named["model"]),))
    if "id" in named and request.url.path.startswith("/v1/keys/"):
        return Resource(kind="key", names=(("id", named["id"]),))
    return None


async def _claim(request: Request, resource: Resource | None) -> None:
    wanted = _tags(request, b"if-match")
    if wanted is None:
        return
    if resource is None:
        raise PreconditionFailed("nothing on this path has a version that If-Match could mean")
    known = None if wanted == "*" else frozenset(int(n) for n in _STRONG.findall(wanted))
    database = services(request).data.database
    if await asyncio.to_thread(versions.claim, database, resource, known):
        return
    found = await asyncio.to_thread(versions.version, database, resource)
    if found is None:
        raise NotFound(f"no {resource.kind} {resource.names[-1][1]!r}")
    raise PreconditionFailed(
        f"the {resource.kind} has version {found}, not what If-Match says: look at it again"
    )


async def _tagged(request: Request, resource: Resource | None, response: Response) -> Response:
    """The answer with its tag; 304 without a body where the caller has it already."""
    content = getattr(response, "body", None)
    if response.status_code not in (200, 201, 202) or not content:
        return response
    version = None
    if resource is not None:
        database = services(request).data.database
        try:
            version = await asyncio.to_thread(versions.version, database, resource)
        except RegistryUnavailable:  # what the snapshot says is answered all the same
            return response
    digest = hashlib.sha256(content).hexdigest()[:16]
    tag = f'"{version or 0}-{digest}"'
    response.headers["ETag"] = tag
    if request.method not in ("GET", "HEAD"):
        return response
    response.headers["Cache-Control"] = "no-cache"
    known = _tags(request, b"if-none-match")
    if known == "*" or (known is not None and tag in known):
        kept = {name: response.headers[name] for name in ("ETag", "Cache-Control")}
        return Response(status_code=304, headers=kept)
    return response


def _tags(request: Request, name: bytes) -> str | None:
    found = header_values(request.scope, name)
    if not found:
        return None
    value = ", ".join(found).strip()
    if value != "*" and not _TAGS.fullmatch(value):
        header = name.decode().title()
        raise Malformed(f'{header} is * or a list of tags like "7-3f2a"', field=header)
    return value
