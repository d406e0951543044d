"""The running gateway against its own description."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

from app.access import ROUTES
from tests.edge import TRIED, Edge, running_edge

GOLDEN = Path(__file__).parent / "openapi.golden.json"
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance,negative_data_rejection,"
    "missing_required_header,unsupported_method,allow_header_conformance,use_after_free,"
    "ignored_auth"
)
"""All but "accept every valid value": no schema can say what fits a model's signature."""


@pytest.fixture(scope="module")
def description(edge: Edge) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{edge.gateway.url}/openapi.json", trust_env=False).json()
    return found


def operations(description: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in description["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def test_the_description_equals_the_golden_file(
    description: dict[str, Any], tmp_path: Path
) -> None:
    now = tmp_path / "openapi.json"
    now.write_text(json.dumps(description, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    assert now.read_text() == GOLDEN.read_text(), f"if this is meant: cp {now} {GOLDEN}"


def test_every_route_is_described_and_nothing_else(description: dict[str, Any]) -> None:
    described = {(method, path) for method, path, _ in operations(description)}
    assert described == ROUTES.keys() - {("GET", "/openapi.json")}


def test_every_route_has_examples_that_fit_their_schemas(description: dict[str, Any]) -> None:
    for method, path, operation in operations(description):
        for parameter in operation.get("parameters", ()):
            check(description, parameter["schema"], parameter["example"])
        for content in operation.get("requestBody", {}).get("content", {}).values():
            if content["schema"].get("format") != "binary":
                for value in examples(description, content):
                    check(description, content["schema"], value)
        for status, answer in operation["responses"].items():
            if status in ("204", "304") or (path, status) == ("/metrics", "200"):
                continue
            for content in answer["content"].values():
                if content["schema"].get("format") == "binary":
                    continue
                for value in examples(description, content):
                    check(description, content["schema"], value)
        assert operation["summary"] and operation["description"], (method, path)


def examples(description: dict[str, Any], content: dict[str, Any]) -> list[Any]:
    if "example" in content:
        return [content["example"]]
    if "examples" in content:
        return [named["value"] for named in content["examples"].values()]
    return resolved(description, content["schema"])["examples"][:1]  # type: ignore[no-any-return]


def resolved(description: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema["$ref"].rsplit("/", 1)[1]
    found: dict[str, Any] = description["components"]["schemas"][name]
    return found


def check(description: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    whole = {**schema, "components": description["components"]}
    jsonschema_rs.Draft202012Validator(whole, validate_formats=True).validate(value)


def test_every_protected_route_asks_for_a_key(description: dict[str, Any]) -> None:
    for method, path, operation in operations(description):
        public = ROUTES[method, path] == "public"
        assert operation["security"] == ([] if public else [{"key": []}])
        assert ("401" in operation["responses"]) is not public


LAST = ("/v1/keys/{id}", "/v1/keys/{id}/rotate")
"""With ids from the list of keys they may well end the one in use."""


def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """Examples, every boundary and random requests against a gateway of its own."""
    with running_edge(tmp_path) as edge:
        assert schemathesis(edge, tmp_path, *(f"--exclude-path={path}" for path in LAST)) > 500
        edge.assert_alive()
        assert schemathesis(edge, tmp_path, *(f"--include-path={path}" for path in LAST)) > 10


CONFIGURATION = """
[checks]
not_a_server_error = { expected-statuses = ["2xx", "3xx", "4xx", "503", "504"] }
negative_data_rejection = { expected-statuses = ["4xx", "503"] }
"""
"""A random deadline of a millisecond may well pass in the queue; that is 504 by design.

Any refusal will do for wrong data: a stale `If-Match` gives 412 before the body is looked at.
"""


def schemathesis(edge: Edge, folder: Path, *choice: str) -> int:
    """How many requests it made, all checks passed."""
    (folder / "schemathesis.toml").write_text(CONFIGURATION)
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{edge.gateway.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {edge.key}", "--checks", CHECKS, *choice),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", "10", "--seed", "1"),
            *("--continue-on-failure", "--generation-database", "none"),
            *("--warnings", "off", "--no-color"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    generated = next(line for line in run.stdout.splitlines() if " generated" in line)
    count = int(generated.split()[0].replace(",", ""))
    TRIED["schemathesis"] += count
    return count


def listed(operation: dict[str, Any], name: str) -> bool:
    return any(parameter["name"] == name for parameter in operation.get("parameters", ()))


def send(client: httpx.Client, method: str, path: str, name: str, value: str) -> httpx.Response:
    """A request with one header; its body is an empty object where one is asked for."""
    at = path.format(model="nobody", variant="nobody", digest="1" * 64, id="nobody")
    content = b"{}" if method in ("POST", "PUT") else None
    given = {name: value, "Content-Type": "application/json"}
    return client.request(method, at, content=content, headers=given)


def test_every_listed_precondition_is_honoured_and_no_other(
    edge: Edge, description: dict[str, Any]
) -> None:
    counts = dict.fromkeys(("If-Match", "Idempotency-Key", "If-None-Match"), 0)
    with edge.gateway.client() as client:
        for method, path, operation in operations(description):
            if path == "/infer":
                continue

            ask = partial(send, client, method, path)
            tags, once = listed(operation, "If-Match"), listed(operation, "Idempotency-Key")
            if method != "GET":
                assert (ask("If-Match", '"1"').status_code == 412) is not tags, (method, path)
                refused = ask("Idempotency-Key", "a b").json().get("field") == "Idempotency-Key"
                assert refused is once, (method, path)
            elif "{" not in path:
                known = listed(operation, "If-None-Match")
                assert ask("If-None-Match", "*").status_code == (304 if known else 200), path
                counts["If-None-Match"] += known
            counts["If-Match"] += tags
            counts["Idempotency-Key"] += once
    assert min(counts.values()) > 2, counts
