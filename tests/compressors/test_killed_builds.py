"""A build that is killed loses the recipe in hand at most; two builds share a folder in peace."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.compressors import plans as written
from variants.data_folder import open_data_folder

pytest.importorskip("torch")

PLAN = """
[[recipe]]
name = "fp32"

[[recipe]]
name = "pruned"
steps = [{ technique = "pruned", ratio = 0.5, round_to = 4, epochs = 1 }]

[[recipe]]
name = "pruned+int8"
from = "pruned"
steps = [{ technique = "int8" }]
"""
NAMES = ("fp32", "pruned", "pruned+int8")


def _start(plan: Path, data: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli", "--data-dir", str(data), "build", str(plan), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def _ended(line: str) -> tuple[str, str]:
    outcome = json.loads(line)
    return outcome["variant"], outcome["status"]


def _whole(data: Path) -> None:
    """Every variant is active, and every blob is what its name says."""
    with open_data_folder(data) as folder:
        records = folder.registry.variants("toy")
        assert {record.name: record.state for record in records} == dict.fromkeys(NAMES, "active")
        for record in records:
            history = folder.audit.of("toy", record.name)
            changes = [change.new_state for change in history if change.new_state is not None]
            assert changes == ["registered", "verified", "profiled", "active"]
            blob = folder.store.blob_path(record.artifact_digest)
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == record.artifact_digest


@pytest.mark.slow
def test_a_killed_build_loses_the_recipe_in_hand_at_most(tmp_path: Path) -> None:
    """Killed as each recipe ends and half a second into the next, until nothing is left to do."""
    plan, data = written.write(tmp_path, PLAN), tmp_path / "data"
    done: list[str] = []
    for _ in range(len(NAMES)):
        process = _start(plan, data)
        assert process.stdout is not None
        for line in process.stdout:
            name, status = _ended(line)
            if name in done:
                assert status == "skipped"
                continue
            assert status == "published"
            done.append(name)
            try:
                process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            break
        process.wait()
        process.stdout.close()
    assert done == list(NAMES)
    _whole(data)


@pytest.mark.slow
def test_two_builds_of_one_plan_do_each_recipe_once(tmp_path: Path) -> None:
    plan, data = written.write(tmp_path, PLAN), tmp_path / "data"
    both = [_start(plan, data) for _ in range(2)]
    told: Counter[str] = Counter()
    for process in both:
        out, _ = process.communicate()
        assert process.returncode == 0, out
        told.update(status for _, status in map(_ended, out.splitlines()))
    assert told == {"published": len(NAMES), "skipped": len(NAMES)}
    _whole(data)
