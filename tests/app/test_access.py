"""The table from routes to scopes, and the keys of a data folder."""

import threading

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import iter_route_contexts
from starlette.responses import Response
from starlette.routing import Mount, Route

from app.access import ROUTES
from app.errors import Forbidden, Unauthenticated
from app.factory import check_routes, create_app
from app.keys import open_keys
from app.routes.guarded import GuardedRoute
from app.settings import Options, Settings
from variants.data_folder import DataFolder
from variants.errors import Conflict, NotFound


@pytest.fixture
def app(data_folder: DataFolder) -> FastAPI:
    return create_app(Options(Settings(data_dir=data_folder.root)), data_folder)


def test_every_route_is_in_the_table_and_the_table_has_no_other(app: FastAPI) -> None:
    found = {
        (method, context.path)
        for context in iter_route_contexts(app.routes)
        for method in (context.methods or set()) - {"HEAD"}
    }
    assert found == set(ROUTES)


def test_a_route_without_a_scope_cannot_be_added(app: FastAPI) -> None:
    router = APIRouter(prefix="/v1/secret", route_class=GuardedRoute)
    router.add_api_route("", lambda: None)
    app.include_router(router)
    with pytest.raises(LookupError, match="GET /v1/secret has no scope"):
        check_routes(app.routes)


def test_a_route_that_does_not_look_at_keys_cannot_be_added(app: FastAPI) -> None:
    app.add_api_route("/v1/models", lambda: None, methods=["GET"])
    with pytest.raises(LookupError, match="/v1/models does not check keys"):
        check_routes(app.routes)


def test_neither_can_one_in_a_router_within_a_router(app: FastAPI) -> None:
    inner, outer = APIRouter(), APIRouter(prefix="/v1")
    inner.add_api_route("/models", lambda: None)
    outer.include_router(inner)
    app.include_router(outer)
    with pytest.raises(LookupError, match="does not check keys"):
        check_routes(app.routes)


def test_neither_can_a_plain_or_mounted_application(app: FastAPI) -> None:
    for route in (Route("/infer", lambda request: Response()), Mount("/static", FastAPI())):
        with pytest.raises(LookupError):
            check_routes([*app.routes, route])


def test_a_key_is_checked_and_revoked(data_folder: DataFolder) -> None:
    keys = open_keys(data_folder.keys, data_folder.root, required=True)
    admin = keys.create("first", frozenset({"admin"}), actor="test")
    key = keys.create("shop", frozenset({"infer"}), actor="test")
    assert keys.check([f"Bearer {key}"], "infer").scopes == {"infer"}
    with pytest.raises(Forbidden):
        keys.check([f"Bearer {key}"], "admin")
    keys.revoke(key.split("_")[1], actor="test")
    with pytest.raises(Unauthenticated):
        keys.check([f"Bearer {key}"], "infer")
    with pytest.raises(NotFound):
        keys.revoke("ffffffff", actor="test")
    with pytest.raises(Conflict, match="last admin key"):
        keys.revoke(admin.split("_")[1], actor="test")


def test_of_two_last_admin_keys_only_one_can_be_revoked(data_folder: DataFolder) -> None:
    keys = open_keys(data_folder.keys, data_folder.root, required=True)
    ids = [keys.create("admin", frozenset({"admin"}), actor="test").split("_")[1] for _ in range(2)]
    refused: list[Conflict] = []

    def revoke(id: str) -> None:
        try:
            keys.revoke(id, actor="test")
        except Conflict as error:
            refused.append(error)

    threads = [threading.Thread(target=revoke, args=(id,)) for id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1


def test_a_key_outlives_the_process_that_made_it(data_folder: DataFolder) -> None:
    key = open_keys(data_folder.keys, data_folder.root, required=True).create(
        "shop", frozenset({"infer"}), actor="test"
    )
    again = open_keys(data_folder.keys, data_folder.root, required=True)
    assert again.check([f"Bearer {key}"], "infer").name.endswith("(shop)")


def test_without_keys_anyone_may_do_anything(data_folder: DataFolder) -> None:
    keys = open_keys(data_folder.keys, data_folder.root, required=False)
    assert keys.check([], "admin").name == "anyone"
