"""The faults of the fake runtime, which tests of worker processes rely on."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from variants.runtimes import fake

RUN = """
import sys
from pathlib import Path
import numpy as np
from variants.runtimes import fake
session = fake.load(Path(sys.argv[1]), 1)
print("loaded", flush=True)
session.run({"x": np.zeros((1, 2), dtype=np.float32)})
"""


def plan(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "fake.json"
    path.write_text(json.dumps({"outputs": {"y": [2, 2]}, **changes}), encoding="utf-8")
    return path


def start(path: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", RUN, path], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "loaded\n"
    return child


def test_crash_ends_the_process_at_the_first_run(tmp_path: Path) -> None:
    with start(plan(tmp_path, fault="crash")) as child:
        assert child.wait(timeout=10) == -signal.SIGABRT


def test_hang_lasts_until_the_process_is_killed(tmp_path: Path) -> None:
    with start(plan(tmp_path, fault="hang")) as child:
        try:
            child.wait(timeout=0.3)
        except subprocess.TimeoutExpired:
            child.kill()
        assert child.wait(timeout=10) == -signal.SIGKILL


def test_shape_adds_a_row(tmp_path: Path) -> None:
    session = fake.load(plan(tmp_path, fault="shape"), 1)
    assert session.run({"x": np.ones((3, 2), dtype=np.float32)})["y"].shape == (4, 2, 2)
