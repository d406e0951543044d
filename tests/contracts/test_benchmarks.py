"""The page of measurements shows what was measured, and the digits see every technique."""

import tomllib
from pathlib import Path

from benchmarks import tables
from compressors import techniques

ROOT = Path(__file__).parent.parent.parent


def test_the_page_shows_the_results() -> None:
    page = tables.PAGE.read_text(encoding="utf-8")
    assert tables.render(page) == page


def test_the_digits_plan_holds_every_technique() -> None:
    plan = tomllib.loads((ROOT / "benchmarks/digits/plan.toml").read_text(encoding="utf-8"))
    used = {"fp32"}
    for recipe in plan["recipe"]:
        used.update(
            step["technique"] for step in recipe.get("steps", [{"technique": recipe["name"]}])
        )
    assert used == set(techniques.names())
