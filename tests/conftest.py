"""Fixtures for every package. Builders that take arguments are in `tests/models.py`.

The table of drills is told at the end of a run and written where `GEARSHIFT_TEST_TABLE` says.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ladder as ladders
from tests import models, servers
from tests.faults import table
from variants import evaluation
from variants.data_folder import DataFolder, open_data_folder
from variants.database import Database
from variants.spec import ModelSpec
from variants.store import Store

LATE = ("end_to_end", "faults")
"""Folders whose tests take seconds each; they run after all others."""


TABLE = os.environ.get("GEARSHIFT_TEST_TABLE")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first: what is marked slow or lies in a late folder goes to the end."""
    items.sort(key=_slow)


def pytest_collection_finish() -> None:
    """What the tests are told is no gateway's setting."""
    for name in [name for name in os.environ if name.startswith("GEARSHIFT_TEST_")]:
        del os.environ[name]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the cases of files that are told by their number of cases."""
    file = report.nodeid.split("::")[0].removeprefix("tests/")
    if report.when == "call" and report.passed and file in table.FILES:
        table.CASES[file] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was done to the gateway and what came of it."""
    if table.DRILLS:
        terminalreporter.section("drills")
        terminalreporter.write(table.markdown())
    if TABLE is not None:
        Path(TABLE).write_text(table.markdown(), encoding="utf-8")


def _slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None or any(
        folder in item.path.parts for folder in LATE
    )


@pytest.fixture
def tiny_onnx(tmp_path: Path) -> Path:
    """A real ONNX file: Linear 4→3."""
    return models.tiny_onnx(tmp_path / "tiny.onnx")


@pytest.fixture
def tiny_spec() -> ModelSpec:
    """What `tiny_onnx` promises."""
    return models.tiny_spec()


@pytest.fixture
def tiny_evaluation(tmp_path: Path) -> Path:
    """100 labelled rows as a safetensors file; `tiny_onnx` gets 90 of them right."""
    path = tmp_path / "evaluation.safetensors"
    path.write_bytes(evaluation.dumps(models.tiny_evaluation(100, wrong=10)))
    return path


@pytest.fixture(scope="session")
def built_ladder(tmp_path_factory: pytest.TempPathFactory) -> ladders.Ladder:
    """Three real variants and a fake slow one; not to be changed."""
    return ladders.build(tmp_path_factory.mktemp("ladder"))


@pytest.fixture
def ladder(built_ladder: ladders.Ladder, tmp_path: Path) -> ladders.Ladder:
    """A copy of the ladder that the test may change."""
    return built_ladder.copy(tmp_path / "ladder")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "data")


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Postgres]:
    """A PostgreSQL server; skips where none is installed."""
    with servers.postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a new, empty database is: a file, and an address on a PostgreSQL server."""
    if request.param == "sqlite":
        return tmp_path / "data" / "registry.sqlite3"
    server: servers.Postgres = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def database(place: Path | str) -> Iterator[Database]:
    """An empty database of each kind."""
    opened = Database(place)
    yield opened
    opened.close()


@pytest.fixture
def data_folder(tmp_path: Path) -> Iterator[DataFolder]:
    """An empty data folder."""
    with open_data_folder(tmp_path / "data") as folder:
        yield folder
