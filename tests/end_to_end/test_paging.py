"""Long listings, page by page, over HTTP."""

import json
from typing import Any

import httpx
import pytest

from tests.edge import Edge


def pages(client: httpx.Client, path: str, name: str, **given: Any) -> list[list[Any]]:
    """Every page of a listing."""
    found: list[list[Any]] = []
    after: dict[str, Any] = {}
    while True:
        answer = client.get(path, params=given | after).raise_for_status().json()
        found.append(answer[name])
        if answer["next"] is None:
            return found
        after = {"after": answer["next"]}


def variants(edge: Edge) -> str:
    """The variants of the model that has most."""
    with edge.gateway.client() as client:
        models = client.get("/v1/models").json()["models"]
    most = max(models, key=lambda model: len(model["active"] + model["inactive"]))
    return f"/v1/models/{most['model']}/variants"


def test_every_listing_is_whole_by_default_and_the_same_in_pages(edge: Edge) -> None:
    of_model = variants(edge)
    with edge.gateway.client() as client:
        for n in range(3):
            made = client.post("/v1/keys", json={"name": f"page {n}", "scopes": ["read"]})
            assert made.status_code == 201
        first = client.get(of_model).json()["variants"][0]["variant"]
        listings = (
            ("/v1/models", "models"),
            (of_model, "variants"),
            (f"{of_model}/{first}/history", "history"),
            ("/v1/keys", "keys"),
        )
        for path, name in listings:
            (whole,) = pages(client, path, name)
            assert len(whole) > 1, path
            for limit in (1, 2, len(whole), 1000):
                found = pages(client, path, name, limit=limit)
                assert [entry for part in found for entry in part] == whole
                assert len(found) == -(-len(whole) // limit)
        lines = client.get("/v1/audit").content.splitlines()
        ids = [json.loads(line)["id"] for line in lines]
        some = client.get("/v1/audit", params={"after": ids[0], "limit": 2})
        assert [json.loads(line)["id"] for line in some.content.splitlines()] == ids[1:3]


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", ""])
def test_a_page_has_a_bounded_number_of_entries(edge: Edge, limit: str) -> None:
    of_model = variants(edge)
    with edge.gateway.client() as client:
        for path in ("/v1/models", of_model, "/v1/keys", "/v1/audit"):
            answer = client.get(path, params={"limit": limit})
            assert (answer.status_code, answer.json()["field"]) == (422, "limit")


def test_a_mark_names_nothing_that_the_key_must_not_know_of(edge: Edge) -> None:
    with edge.gateway.client() as client:
        models = [model["model"] for model in client.get("/v1/models").json()["models"]]
        body = {"name": "one", "scopes": ["read"], "limits": {"allow": models[:2]}}
        key = client.post("/v1/keys", json=body).json()["key"]
        bearer = {"authorization": f"Bearer {key}"}
        found = client.get("/v1/models", params={"limit": 2}, headers=bearer).json()
        assert ([model["model"] for model in found["models"]], found["next"]) == (models[:2], None)
