"""`gearshift keys`: a key's whole life on the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app
from variants.data_folder import open_data_folder
from variants.errors import Conflict, Invalid


class Shell:
    """Runs commands on one data folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, *arguments: str) -> str:
        done = CliRunner().invoke(app, ["--data-dir", str(self._folder), "keys", *arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout.strip()

    def wrong(self, *arguments: str) -> str:
        done = CliRunner().invoke(app, ["--data-dir", str(self._folder), "keys", *arguments])
        assert done.exit_code == 2, done.output
        return done.output

    def key(self, id: str) -> Any:
        listed = map(json.loads, self("list").splitlines())
        return next(key for key in listed if key["id"] == id)


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path / "data")


def test_a_key_is_made_with_limits_rotated_and_revoked(keys: Shell, tmp_path: Path) -> None:
    limits = ["--max-latency-ms", "200", "--max-cost", "5", "--min-accuracy", "0.5"]
    limits += ["--max-accuracy-drop", "1", "--requests-per-s", "50", "--usd-per-day", "2"]
    names = ["--allow", "fashion", "--allow", "text/int8"]
    made = keys("create", "--name", "shop", "--expires-in", "90d", *limits, *names)
    id = made.split("_")[1]
    shown = keys.key(id)
    assert shown["limits"] == {
        "allow": ["fashion", "text/int8"],
        "max_latency_ms": 200,
        "max_cost": 5,
        "min_accuracy": 0.5,
        "max_accuracy_drop": 1,
        "requests_per_s": 50,
        "usd_per_day": 2,
    }
    assert shown["scopes"] == ["infer", "read"] and shown["expires_at"] > shown["created_at"]
    new = keys("rotate", id, "--overlap", "30m")
    assert new.startswith(f"gs_{id}_") and new != made
    assert keys.key(id)["old_secret_until"] is not None
    assert json.loads(keys("usage", id)) == {
        "key": id,
        "usd_per_day": 2,
        "unspent_usd": 2,
        "days": [],
    }
    keys("rotate-pepper")
    keys("revoke", id)
    assert keys.key(id)["revoked_at"] is not None
    with open_data_folder(tmp_path / "data") as data:
        done = [(entry.action, entry.actor) for entry in data.audit.after(0)]
    actions = ["key.create", "key.rotate", "key.rotate-pepper", "key.revoke"]
    assert done == [(action, "command line") for action in actions]


def test_what_would_lock_everybody_out_needs_force(keys: Shell) -> None:
    id = keys("create", "--name", "ops", "--scopes", "admin").split("_")[1]
    with pytest.raises(Conflict, match="last admin key"):
        keys("revoke", id)
    keys("rotate-pepper")
    with pytest.raises(Invalid, match=id):
        keys("rotate-pepper")
    keys("rotate-pepper", "--force")
    keys("revoke", id, "--force")


@pytest.mark.parametrize("span", ["", "1", "d", "1w", "-1d", "1.d", "1d2h"])
def test_a_span_of_time_that_is_none_is_refused(keys: Shell, span: str) -> None:
    assert "span of time" in keys.wrong("create", "--name", "x", f"--expires-in={span}")


@pytest.mark.parametrize("span", ["36501d", "99999999d", "9" * 400 + "s"])
def test_a_span_of_time_beyond_all_sense_is_refused(keys: Shell, span: str) -> None:
    assert "than 36500d" in keys.wrong("create", "--name", "x", f"--expires-in={span}")
    assert "than 36500d" in keys.wrong("rotate", "none", f"--overlap={span}")


def test_scopes_that_are_none_are_refused(keys: Shell) -> None:
    assert "unknown scope" in keys.wrong("create", "--name", "x", "--scopes", "root")
    assert "needs a scope" in keys.wrong("create", "--name", "x", "--scopes", ",")
