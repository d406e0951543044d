"""What the drills tried and what came of it: one table at the end of the run."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Drill:
    """One fault: its number in the catalogue, what was done, and the counts."""

    id: str
    what: str
    counts: Mapping[str, float]


DRILLS: list[Drill] = []
"""Of this run."""


def drilled(id: str, what: str, counts: Mapping[str, float]) -> None:
    """Add one drill to the table."""
    DRILLS.append(Drill(id=id, what=what, counts=counts))


def markdown() -> str:
    """The table, in the order of the catalogue."""
    lines = ["| drill | what was done | counts |", "|---|---|---|"]
    for drill in sorted(DRILLS, key=lambda d: (d.id[0], int(d.id[1:]), d.what)):
        counts = ", ".join(f"{name} {value:g}" for name, value in drill.counts.items())
        lines.append(f"| {drill.id} | {drill.what} | {counts} |")
    return "\n".join(lines) + "\n"
