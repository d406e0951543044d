"""The table of drills, at the end of the run and where `GEARSHIFT_TEST_TABLE` names a file."""

import os
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
