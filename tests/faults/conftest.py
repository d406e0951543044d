"""The table of drills, at the end of the run and where `GEARSHIFT_TEST_TABLE` names a file."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.faults import table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was done to the gateway and what came of it."""
    if not table.DRILLS:
        return
    terminalreporter.section("drills")
    terminalreporter.write(table.markdown())
    if target := os.environ.get("GEARSHIFT_TEST_TABLE"):
        Path(target).write_text(table.markdown(), encoding="utf-8")


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that brings a disk's faults about and records its changes; for LD_PRELOAD."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for tests/faults/faults.c")
    built = tmp_path_factory.mktemp("shim") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", built, source, "-ldl"]
    subprocess.run(command, check=True)
    return built
