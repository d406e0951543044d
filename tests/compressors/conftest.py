"""One build of the whole ladder, shared by the tests that look at its results."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from compressors import plan as plans
from compressors.build import build
from compressors.outcome import Outcome
from tests.compressors import plans as written
from variants.data_folder import DataFolder, open_data_folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Ladder:
    """A finished build."""

    plan: plans.Plan
    folder: DataFolder
    outcomes: dict[str, Outcome]


@pytest.fixture(scope="session")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ladder]:
    """The toy model with every technique and one chain."""
    pytest.importorskip("torch")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    root: Path = tmp_path_factory.mktemp("ladder")
    plan = plans.load(written.write(root))
    with open_data_folder(root / "data") as folder:
        outcomes = build(plan, folder)
        yield Ladder(
            plan=plan, folder=folder, outcomes={outcome.variant: outcome for outcome in outcomes}
        )
