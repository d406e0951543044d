"""Two listeners: inference outside, control routes inside."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from app.access import INNER, ROUTES
from tests import world
from tests.ladder import Ladder


def concrete(path: str) -> str:
    return re.sub(r"{\w+}", "none", path)


@pytest.mark.option("admin_port")
def test_control_routes_are_only_on_the_listener_for_admins(ladder: Ladder) -> None:
    with world.gateway(
        ladder.root, ladder.key, env={"GEARSHIFT_ADMIN_PORT": "0", "GEARSHIFT_WORKERS": "1"}
    ) as gateway:
        found = re.search(r"admin routes at (http://\S+)", "".join(gateway.log))
        assert found is not None and found[1] != gateway.url
        inner = httpx.Client(
            base_url=found[1],
            headers={"authorization": f"Bearer {ladder.key}"},
            trust_env=False,
        )
        with gateway.client() as outer, inner:
            unknown = outer.get("/v1/nothing")
            for (method, path), need in ROUTES.items():
                body = {"json": {}} if method in ("POST", "PUT") else {}
                outside = outer.request(method, concrete(path), **body)
                inside = inner.request(method, concrete(path), **body)
                assert inside.status_code != 404 or inside.json()["title"] == "No such thing"
                if need in INNER:
                    assert outside.status_code == 404, (method, path)
                    assert outside.json()["title"] == unknown.json()["title"]
                else:
                    assert outside.status_code == inside.status_code, (method, path)
            answer = outer.post("/infer", json={"model": "gears", "inputs": [1, 2, 3, 4]})
            assert answer.status_code == 200


def test_a_port_for_admins_in_use_is_one_line_and_not_0(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        environment = {
            "GEARSHIFT_PORT": "0",
            "GEARSHIFT_ADMIN_PORT": str(number),
            "GEARSHIFT_WORKERS": "1",
        }
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", "--data-dir", str(tmp_path), "serve"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith(f"gearshift: cannot listen on 127.0.0.1:{number}: ")
    assert len(done.stderr.splitlines()) == 1
