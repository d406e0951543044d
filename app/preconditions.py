"""`ETag`, `If-None-Match` and `If-Match` on control routes, in one place for all of them.

A tag is `"7-3f2a…"`: the version of the model, variant or key that the path names, and a digest of
what was shown. `If-None-Match` compares all of it and saves the body; `If-Match` compares the
version, claims it before anything is done, and lets one of two callers pass who saw the same; who
changes it all the same before this one is done makes it fail. A tag's version is never newer than
what is shown.
Source: RFC 9110, section 13.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Literal

from fastapi import Request, Response

from app.errors import Malformed
from app.http_edge import header_values
from app.services import services
from variants import versions
from variants.errors import NotFound, Outdated, RegistryUnavailable
from variants.versions import Kind, Resource

Handle = Callable[[Request], Awaitable[Response]]

MEDIA_TYPE = "application/json"
"""What has tags: answers that are JSON."""

Header = Literal["If-Match", "If-None-Match"]

_TAG = r'(W/)?"[!#-~]*"'
TAGS_PATTERN = rf"{_TAG}([ \t]*,[ \t]*{_TAG})*"
_TAGS = re.compile(TAGS_PATTERN)
_READS = ("GET", "HEAD")
_STRONG = re.compile(r'(?:^|[\s,])"(\d{1,9})(?:-[0-9a-f]*)?"')
"""A version, of so many digits as the databases' numbers have room for."""


def honoured(method: str, path: str, media_types: Collection[str]) -> Header | None:
    """The precondition that a route's requests may have, by the path as it was declared.

    `media_types` are those of its answers; what is no JSON, and the probes, have no tags.
    """
    if method in _READS:
        return "If-None-Match" if _tags_answers(path) and MEDIA_TYPE in media_types else None
    return None if _kind(path) is None else "If-Match"


def check(request: Request) -> None:
    """Raise `Malformed` for a precondition that is no list of tags."""
    for name in (b"if-match", b"if-none-match"):
        _tags(request, name)


def conditional(handle: Handle, path: str) -> Handle:
    """The same handler behind the preconditions of its request, with a tag on its answer.

    `path` is the route's, as it was declared. Raises `Outdated` or `NotFound`.
    """
    kind = _kind(path)

    async def checked(request: Request) -> Response:
        resource = None if kind is None else _resource(kind, request.path_params)
        claimed = None
        if request.method not in _READS:
            claimed = await _claim(request, resource)
        if resource is None:
            return _answered(request, await handle(request), 0)
        shown = claimed or await _version(request, resource)
        with versions.held(resource, claimed) as held:
            response = await handle(request)
        return _answered(request, response, held.version or shown)

    def _answered(request: Request, response: Response, version: int | None) -> Response:
        json = _tags_answers(path) and response.headers.get("content-type") == MEDIA_TYPE
        return _tagged(request, response, version) if json and version is not None else response

    return checked


def _tags_answers(path: str) -> bool:
    return path.startswith("/v1/")


def _kind(path: str) -> Kind | None:
    """What a path names, the last name of it that has a version."""
    if "{variant}" in path:
        return "variant"
    if "{model}" in path:
        return "model"
    return "key" if path.startswith("/v1/keys/{id}") else None


def _resource(kind: Kind, named: Mapping[str, str]) -> Resource:
    match kind:
        case "variant":
            names = (("model", named["model"]), ("name", named["variant"]))
            return Resource(kind=kind, names=names)
        case "model":
            return Resource(kind=kind, names=(("name", named["model"]),))
        case "key":
            return Resource(kind=kind, names=(("id", named["id"]),))


async def _claim(request: Request, resource: Resource | None) -> int | None:
    """The version that this request made its own; None where it does not care."""
    wanted = _tags(request, b"if-match")
    if wanted is None:
        return None
    if resource is None:
        raise Outdated("nothing on this path has a version that If-Match could mean")
    known = None if wanted == "*" else frozenset(int(n) for n in _STRONG.findall(wanted))
    database = services(request).data.database
    claimed = await asyncio.to_thread(versions.claim, database, resource, known)
    if claimed is not None:
        return claimed
    found = await asyncio.to_thread(versions.version, database, resource)
    if found is None:
        raise NotFound(f"no {resource.kind} {resource.names[-1][1]!r}")
    raise Outdated(
        f"the {resource.kind} has version {found}, not what If-Match says: look at it again"
    )


async def _version(request: Request, resource: Resource) -> int | None:
    """The version before anything is read or done: a model's as the snapshot has it, which is what
    its page shows. None where the database does not tell."""
    parts = services(request)
    if resource.kind == "model":
        model = parts.engine.catalog.models.get(resource.names[0][1])
        return None if model is None else model.record.version
    try:
        return await asyncio.to_thread(versions.version, parts.data.database, resource)
    except RegistryUnavailable:
        return None


def _tagged(request: Request, response: Response, version: int) -> Response:
    """The answer with its tag; 304 without a body where the caller has it already."""
    if response.status_code not in (200, 201, 202):
        return response
    digest = hashlib.sha256(response.body).hexdigest()[:16]
    tag = f'"{version}-{digest}"'
    response.headers["ETag"] = tag
    if request.method not in _READS:
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
