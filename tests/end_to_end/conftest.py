"""One real gateway for every test that only sends requests."""

from collections.abc import Iterator

import pytest

from tests.edge import TRIED, Edge, running_edge


@pytest.fixture(scope="session")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """The shared gateway. A test that changes what it serves starts its own."""
    with running_edge(tmp_path_factory.mktemp("edge")) as running:
        yield running


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was thrown at the gateway."""
    if TRIED:
        terminalreporter.section("sent to the running gateway")
        for kind, count in sorted(TRIED.items()):
            terminalreporter.write_line(f"{count:6d}  {kind}")
