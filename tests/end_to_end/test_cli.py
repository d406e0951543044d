"""The command line as people meet it: one line for each mistake of theirs, and exit status 2."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ladder as ladders
from tests import world
from tests.faults.gateways import until
from tests.ladder import MODEL, Ladder
from variants import backup
from variants.data_folder import open_data_folder
from variants.store import Store


def gearshift(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        cwd=folder,
        env={**os.environ, "GEARSHIFT_DATA_DIR": str(folder / "data"), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_mistake(run: subprocess.CompletedProcess[str], says: str) -> None:
    assert run.returncode == 2, run.stderr
    assert run.stderr.startswith("gearshift: ") and says in run.stderr, run.stderr
    assert run.stderr.count("\n") == 1, run.stderr
    assert run.stdout == ""


@pytest.mark.parametrize("command", [("serve",), ("config", "show"), ("variants", "list")])
def test_a_typo_in_the_file_ends_any_command(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "gearshift.toml").write_text("# mine\nworker = 2\n")
    run = gearshift(tmp_path, *command)
    assert_mistake(run, "gearshift.toml:2: worker: unknown key; nearest valid key: 'workers'")


def test_a_typo_in_the_environment_is_named(tmp_path: Path) -> None:
    run = gearshift(tmp_path, "config", "show", GEARSHIFT_WORKER="2")
    assert_mistake(run, "GEARSHIFT_WORKER: no such option; nearest: GEARSHIFT_WORKERS")


@pytest.mark.parametrize("value", ["[" * 3000, "9" * 5000])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, value: str) -> None:
    (tmp_path / "gearshift.toml").write_text(f"workers = {value}\n")
    assert_mistake(gearshift(tmp_path, "serve"), "gearshift.toml: ")


@pytest.mark.parametrize("url", ["postgresql://h:port/n", "postgresql://u:hunter2@[h/n", "where"])
def test_an_address_that_is_none_is_one_line_without_its_password(tmp_path: Path, url: str) -> None:
    run = gearshift(tmp_path, "serve", "--port", "0", GEARSHIFT_DATABASE_URL=url)
    assert_mistake(run, "database_url")
    assert "hunter2" not in run.stderr


@pytest.mark.option("data_dir")
@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("variants", "list"), ("gc",)])
def test_a_data_folder_that_cannot_be_one_is_one_line(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        assert_mistake(gearshift(tmp_path, *command, GEARSHIFT_DATA_DIR=str(place)), str(place))


@pytest.mark.option("host", "require_keys")
def test_an_open_address_without_keys_is_not_served(tmp_path: Path) -> None:
    run = gearshift(tmp_path, "serve", "--host", "0.0.0.0", "--no-require-keys", "--port", "0")
    assert_mistake(run, "only a loopback address is allowed")


@pytest.mark.option("port")
def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = gearshift(tmp_path, "serve", "--port", str(port))
    assert_mistake(run, f"cannot listen on 127.0.0.1:{port}: Address already in use")


@pytest.mark.option("policy")
def test_an_unknown_policy_is_one_line(tmp_path: Path) -> None:
    assert_mistake(gearshift(tmp_path, "serve", "--port", "0", "--policy", "nope"), "nope")


def test_a_readable_pepper_is_one_line(tmp_path: Path) -> None:
    assert gearshift(tmp_path, "keys", "create", "--name", "a").returncode == 0
    (tmp_path / "data" / "pepper").chmod(0o644)
    assert_mistake(gearshift(tmp_path, "keys", "create", "--name", "b"), "chmod 600")


def test_config_show_says_where_each_value_comes_from(tmp_path: Path) -> None:
    (tmp_path / "gearshift.toml").write_text("workers = 2\n[prices]\ncore_hour_usd = 0.1\n")
    run = gearshift(tmp_path, "config", "show", "--origin", GEARSHIFT_PORT="81")
    lines = dict(line.split(" = ", 1) for line in run.stdout.splitlines())
    assert lines["port"] == "81   # environment GEARSHIFT_PORT; restart"
    assert lines["workers"] == "2   # gearshift.toml; restart"
    assert lines["prices.core_hour_usd"] == "0.1   # gearshift.toml; restart"
    assert lines["prices.gib_hour_usd"].endswith("# default; restart")
    assert lines["queue_limit"].endswith("# default; reload")
    assert lines["host"] == '"127.0.0.1"   # default; restart'


def test_what_config_show_prints_is_a_settings_file(tmp_path: Path) -> None:
    run = gearshift(tmp_path, "config", "show", GEARSHIFT_PORT="81")
    (tmp_path / "gearshift.toml").write_text(run.stdout)
    again = gearshift(tmp_path, "config", "show")
    assert (again.returncode, again.stdout) == (0, run.stdout)


@pytest.mark.option("data_dir")
def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    def create(*arguments: str) -> str:
        return gearshift(tmp_path, "keys", "create", "--name", "shop", *arguments).stdout.strip()

    key = create("--scopes", "infer,read")
    admin = create("--scopes", "admin")
    listed = gearshift(tmp_path, "keys", "list").stdout
    shown = {entry["id"]: entry for entry in map(json.loads, listed.splitlines())}
    id, secret = key.split("_", 2)[1:]
    assert shown[id]["scopes"] == ["infer", "read"] and secret not in listed
    assert gearshift(tmp_path, "keys", "revoke", id).returncode == 0
    assert_mistake(gearshift(tmp_path, "keys", "revoke", admin.split("_")[1]), "last admin key")
    assert_mistake(gearshift(tmp_path, "keys", "revoke", "nope"), "nope")
    wrong = gearshift(tmp_path, "keys", "create", "--name", "x", "--scopes", "root")
    assert wrong.returncode == 2 and "unknown scope 'root'" in wrong.stderr


def test_a_backup_is_made_and_brought_back_by_command(ladder: Ladder, tmp_path: Path) -> None:
    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "app.cli", "--data-dir", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    made = run(ladder.root, "backup", str(tmp_path / "kept"))
    assert made.returncode == 0, made.stderr
    assert "pepper" in made.stdout
    back = run(tmp_path / "new", "restore", str(tmp_path / "kept"))
    assert back.returncode == 0, back.stderr
    with open_data_folder(ladder.root) as old, open_data_folder(tmp_path / "new") as new:
        assert new.registry.variants(MODEL) == old.registry.variants(MODEL)
    again = run(tmp_path / "new", "restore", str(tmp_path / "kept"))
    assert (again.returncode, again.stdout) == (2, "")
    assert "--force" in again.stderr


def test_a_gateway_goes_on_with_a_registry_that_is_restored_under_it(
    ladder: Ladder, tmp_path: Path
) -> None:
    with open_data_folder(ladder.root) as data:
        backup.back_up(data, tmp_path / "kept")
    with (
        world.gateway(ladder.root, ladder.key, env=ladders.ENV) as gateway,
        gateway.client() as client,
    ):
        made = client.post("/v1/keys", json={"name": "late", "scopes": ["read"]}).json()["key"]
        with gateway.client(made) as late:
            assert late.get("/v1/models").status_code == 200
            backup.restore(
                tmp_path / "kept", ladder.root, Store(ladder.root), force=True, actor="test"
            )
            until(lambda: late.get("/v1/models").status_code == 401, 2.0)
        assert client.post("/v1/keys", json={"name": "new", "scopes": ["read"]}).is_success
        assert client.get("/readyz").json()["registry"] is None
