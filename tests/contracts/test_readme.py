"""The README says what is: its commands exist and its numbers are those that were measured."""

import json
import re
from pathlib import Path

from docs import readme

ROOT = Path(__file__).parents[2]


def test_the_measured_parts_are_the_ones_in_measured_json() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.render(text, json.loads(readme.MEASURED.read_text(encoding="utf-8"))) == text


def test_three_budgets_were_answered_by_three_variants() -> None:
    answers = json.loads(readme.MEASURED.read_text(encoding="utf-8"))["answers"]
    assert len({answer["variant"] for answer in answers}) == len(answers) == 3


def test_every_make_command_in_the_readme_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    text = readme.README.read_text(encoding="utf-8")
    commands = re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)
    assert {"demo", "test"} <= set(commands) <= targets


def test_every_link_in_the_documents_leads_somewhere() -> None:
    pages = [readme.README, *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*/README.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []
