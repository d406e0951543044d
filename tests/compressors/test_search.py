"""A search tries chains on a real model, remembers them, and publishes what nobody beats."""

import dataclasses
import os
from pathlib import Path

import pytest

from compressors import goal, techniques
from compressors import plan as plans
from tests.compressors import plans as written
from variants.data_folder import open_data_folder

pytest.importorskip("torch")
pytest.importorskip("optuna")

HEAD = written.HEAD.replace("epochs = 2", "epochs = 1")
PLAN = """
[[recipe]]
name = "fp32"

[[recipe]]
name = "int8"
"""


@pytest.fixture
def three_techniques(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer openings, so that a short budget sees more than them."""
    monkeypatch.setattr(techniques, "names", lambda: ("fp32", "int8", "low_rank", "pruned"))


@pytest.mark.slow
@pytest.mark.usefixtures("three_techniques")
def test_a_search_publishes_its_front_and_goes_on_where_it_ended(tmp_path: Path) -> None:
    from compressors.search import search

    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    plan = plans.load(written.write(tmp_path, PLAN, HEAD))
    wish = goal.parse("accuracy>=ref-5pp, minimise=size")
    with open_data_folder(tmp_path / "data") as folder:
        first = search(plan, folder, wish, budget_s=600, trials=3)
        assert first.trials == 3
        assert first.searched is not None and first.by_hand is not None
        assert {outcome.status for outcome in first.outcomes} == {"published"}
        names = {variant.name for variant in folder.registry.variants("toy")}
        assert {outcome.variant for outcome in first.outcomes} <= names
        best = min(first.outcomes, key=lambda o: o.manifest.artifact.size_bytes)  # type: ignore[union-attr]  # published
        assert best.variant == first.searched.recipe.name
        assert best.manifest is not None
        # What is published is what was measured while searching, names inside the file apart.
        size = best.manifest.artifact.size_bytes
        assert size == pytest.approx(first.searched.value, rel=0.02)
        assert (first.searched.value < first.by_hand.value) == ("beats" in first.verdict)

        again = search(plan, folder, wish, budget_s=600, trials=0)
        assert again.trials == 0
        assert again.searched == first.searched

    found = (tmp_path / "data" / "builds" / "toy.found.toml").read_text(encoding="utf-8")
    repeated = plans.load(written.write(tmp_path / "again", PLAN + "\n" + found, HEAD))
    searched = {recipe.name: recipe for recipe in repeated.recipes}
    assert searched[best.variant].steps == first.searched.recipe.steps


def test_every_knob_of_a_technique_is_a_key_that_it_takes() -> None:
    for name in techniques.names():
        technique = techniques.find(name)
        fields = {field.name for field in dataclasses.fields(technique.Config)}
        assert set(technique.KNOBS) <= fields - {"epochs", "learning_rate"}, name
