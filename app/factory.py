"""`create_app(options)`: everything is constructed here and handed down."""

import asyncio
import gc
import math
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app import catalog, images, openapi, signing
from app.access import ROUTES, methods_at
from app.bad_keys import BadKeys
from app.changes import Changes
from app.decisions import Decisions
from app.direct import Direct
from app.engine.engine import Engine
from app.engine.process import Process
from app.errors import (
    CONTENT_TYPE,
    TABLE,
    Forbidden,
    OverQuota,
    Problem,
    Unauthenticated,
    problem_for,
)
from app.gates import Gates
from app.gateway import Gateway
from app.http_edge import Edge, RequestIds
from app.inference import Inference
from app.keys import open_keys
from app.ledger import Ledger
from app.metrics import Metrics
from app.promises import Promises
from app.receiving import Receiving
from app.recovery import Recovery
from app.registration import Registration
from app.rollouts import Rollouts
from app.routes import audit, blobs, decisions, health, keys, models
from app.routes.guarded import GuardedRoute
from app.routes.infer import InferEndpoint
from app.services import Services
from app.settings import Options
from app.sweeper import sweep_often
from app.switches import Switches
from router import policies
from variants.data_folder import DataFolder
from variants.errors import Invalid
from variants.profile import host_fingerprint
from variants.replies import Replies

log = structlog.get_logger()

LAG_INTERVAL_S = 0.5
DISK_INTERVAL_S = 5.0
STORE_INTERVAL_S = 60.0

YOUNG_OBJECTS = 10_000
"""So many more objects are made than freed before garbage is looked for, instead of Python's 700:
what requests make lives as long as they, and the last decisions are not worth looking through."""


def create_app(options: Options, data: DataFolder, processes: Sequence[Process] = ()) -> FastAPI:
    """The gateway over an open data folder; `processes` are workers that were started already.

    Raises `Invalid` for an open address without keys, an unknown policy, or a signing key that is
    of no use.
    """
    settings = options.now
    settings.check_address()
    if settings.signing_key is not None:
        signing.check_key(settings.signing_key)
    metrics = Metrics()
    data.database.on_done = metrics.registry_done
    prefix = secrets.token_hex(4)
    engine = Engine(
        store=data.store,
        policy=_policy(settings.policy),
        metrics=metrics,
        workers=settings.workers,
        threads=settings.threads,
        hang_s=settings.hang_s,
        max_queue_bytes=settings.max_queue_bytes,
        limits=settings.worker_limits(),
        memory_bytes=settings.memory_bytes,
    )
    remembered = Decisions(prefix)
    switches = Switches(data=data, engine=engine, metrics=metrics, prices=settings.prices.prices())
    rollouts = Rollouts(engine=engine, switches=switches, metrics=metrics)
    promises = Promises(
        engine=engine,
        switches=switches,
        metrics=metrics,
        demote=settings.demote,
        audit_ratio=settings.audit_ratio,
    )
    gateway = Gateway(
        engine=engine,
        metrics=metrics,
        decisions=remembered,
        prices=settings.prices.prices(),
        options=options,
        rollouts=rollouts,
        promises=promises,
    )
    gates = Gates(
        data=data,
        threads=settings.threads,
        options=options,
        signing_key=settings.signing_key,
    )
    known = open_keys(data.keys, data.root, required=settings.require_keys, pepper=settings.pepper)
    if strangers := known.strangers():
        log.warning("keys_under_another_pepper", keys=strangers[:10], count=len(strangers))
    services = Services(
        options=options,
        data=data,
        engine=engine,
        gateway=gateway,
        registration=Registration(data=data, gates=gates, switches=switches, metrics=metrics),
        switches=switches,
        rollouts=rollouts,
        promises=promises,
        changes=Changes(
            data=data,
            show=switches.show,
            refresh=known.refresh,
            recovery=Recovery(data.registry, data.database.claims),
            metrics=metrics,
        ),
        keys=known,
        bad_keys=BadKeys(settings.bad_keys_per_s),
        ledger=Ledger(data.usage, known),
        decisions=remembered,
        metrics=metrics,
        processes=tuple(processes),
        host=host_fingerprint(),
        replies=Replies(data.database),
        receiving=Receiving(data.store, options),
    )
    inference = Inference(gateway=gateway, keys=services.keys, options=options)
    app = FastAPI(
        title="Gearshift",
        summary="One endpoint, many gears: each request gets the variant that fits its budget.",
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
        redirect_slashes=False,
    )
    app.state.services = services
    app.router.routes.append(
        Route(
            "/infer",
            InferEndpoint(inference),
            methods=["POST"],
        )
    )
    for group in (models, audit, blobs, decisions, keys, health):
        app.include_router(group.router)
    openapi.install(app)
    _install_errors(app)
    ids = RequestIds(prefix)
    app.state.direct = Direct(
        inference=inference, metrics=metrics, ids=ids, bad_keys=services.bad_keys
    )
    app.add_middleware(Edge, metrics=metrics, ids=ids)
    check_routes(app.routes)
    return app


def check_routes(routes: Sequence[BaseRoute]) -> None:
    """Hold every route, included ones too, against the access table: default deny.

    Raises `LookupError` for a route that is not in it, or that would not look at it.
    """
    for found in iter_route_contexts(routes):
        route, path = found.original_route, found.path or ""
        checked = isinstance(route, GuardedRoute) or isinstance(found.endpoint, InferEndpoint)
        if not checked and path != "/openapi.json":
            raise LookupError(f"{path or route} does not check keys: use GuardedRoute")
        for method in (found.methods or set()) - {"HEAD"}:
            if (method, path) not in ROUTES:
                raise LookupError(f"{method} {path} has no scope in app.access.ROUTES")


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    services.data.store.sweep()
    services.changes.begin()
    served = catalog.read(services.data, services.settings.prices.prices())
    services.engine.start(served, services.processes)
    services.rollouts.start()
    for model in served.models.values():
        images.warm(model.spec)
    await services.ledger.book()
    tasks = [
        asyncio.create_task(services.changes.follow()),
        asyncio.create_task(sweep_often(services.data, services.options)),
        asyncio.create_task(services.ledger.run()),
        asyncio.create_task(services.promises.keep()),
        asyncio.create_task(_watch_lag(services.metrics)),
        asyncio.create_task(_watch_disk(services)),
    ]
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
    yield
    for task in tasks:
        task.cancel()
    await services.rollouts.stop()
    await services.promises.stop()
    await services.registration.stop()
    await services.switches.stop()
    await services.engine.stop()
    await services.ledger.book(last=True)
    services.receiving.close()


def _policy(name: str) -> policies.Policy:
    try:
        return policies.find(name)
    except policies.UnknownPolicy as error:
        raise Invalid(str(error), field="policy") from error


async def _watch_lag(metrics: Metrics) -> None:
    while True:
        start = time.monotonic()
        await asyncio.sleep(LAG_INTERVAL_S)
        metrics.loop_lag(time.monotonic() - start - LAG_INTERVAL_S)


async def _watch_disk(services: Services) -> None:
    """Tell how much room there is, before uploads are refused, and forget what was given up."""
    receiving = services.receiving
    sized_s = -math.inf
    while True:
        try:
            await receiving.on_thread(receiving.uploads.sweep)
            free = await receiving.on_thread(services.data.store.free_bytes)
            if time.monotonic() - sized_s >= STORE_INTERVAL_S:
                sized_s = time.monotonic()
                services.metrics.stored(await receiving.on_thread(services.data.store.size_bytes))
        except OSError as error:
            log.warning("disk_not_read", error=error.strerror)
        else:
            services.metrics.disk(free, low=free < services.settings.min_free_bytes)
        await asyncio.sleep(DISK_INTERVAL_S)


def _install_errors(app: FastAPI) -> None:
    for kind in {row[0] for row in TABLE} | {Exception}:
        app.add_exception_handler(kind, _raised)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)


async def _raised(request: Request, error: Exception) -> Response:
    services: Services = request.app.state.services
    if isinstance(error, Unauthenticated):
        services.metrics.auth_failed("key")
        error = services.bad_keys.judged(request.scope["client"], error)
    problem = problem_for(error)
    if problem.status == 500:
        log.error("bug", exc_info=error, request_id=request.scope["gearshift.request_id"])
    if isinstance(error, OverQuota):
        services.metrics.over_quota(error.cause)
    if isinstance(error, Forbidden):
        services.metrics.auth_failed("scope")
    return _document(request, problem)


async def _http(request: Request, error: Exception) -> Response:
    """What the framework refuses. Never uses `request.url`, which the header `Host` shapes."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    codes = {404: "not-found", 405: "method-not-allowed"}
    return _document(
        request,
        Problem(
            status=error.status_code,
            code=codes.get(error.status_code, "malformed"),
            title=str(error.detail),
            detail=f"{request.method} {path[:200]}: {error.detail}.",
            headers={"Allow": ", ".join(methods_at(path))} if error.status_code == 405 else {},
        ),
    )


async def _invalid(request: Request, error: Exception) -> Response:
    """A control route's input: 400 for broken JSON, 422 naming the field otherwise."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:])
    malformed = first["type"] == "json_invalid"
    return _document(
        request,
        Problem(
            status=400 if malformed else 422,
            code="malformed" if malformed else "invalid",
            title="The request cannot be understood" if malformed else "A field is wrong",
            detail=f"{field}: {first['msg']}" if field else str(first["msg"]),
            members={"field": field},
        ),
    )


def _document(request: Request, problem: Problem) -> Response:
    request.scope["gearshift.code"] = problem.code
    return Response(
        problem.body(request.scope["gearshift.request_id"]),
        status_code=problem.status,
        media_type=CONTENT_TYPE,
        headers=dict(problem.headers),
    )
