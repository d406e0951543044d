"""What the drills tried and what came of it: one table at the end of the run."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Drill:
    """One fault: its number in the catalogue, what was done, and the counts."""

    id: str
    what: str
    counts: Mapping[str, float]


HEAD = ("| drill | what was done | counts |", "|---|---|---|")

DRILLS: list[Drill] = []
"""Of this run."""


FILES: Mapping[str, tuple[str, str]] = {
    "end_to_end/test_protocol.py": ("P0", "odd, malformed, slow and huge requests"),
    "end_to_end/test_connections.py": ("P0", "connections kept, dropped and left"),
    "end_to_end/test_nginx.py": ("P0", "the same behind nginx"),
    "end_to_end/test_tensors.py": ("T0", "tensors in JSON that fit no model"),
    "end_to_end/test_binary.py": ("T0", "binary tensors that fit no model"),
    "end_to_end/test_headers.py": ("H0", "budgets that say nothing or too much"),
    "end_to_end/test_auth.py": ("A0", "each route with each kind of key"),
    "end_to_end/test_tenants.py": ("A0", "keys that end, pay, change and leak"),
    "app/test_keys.py": ("A0", "keys in memory and in the database"),
    "end_to_end/test_uploads.py": ("U0", "uploads: cut, wrong, too many, by any name"),
    "end_to_end/test_gates.py": ("U0", "variants at each gate"),
    "variants/test_malicious.py": ("U0", "malicious artifacts, one by one"),
    "variants/test_database.py": ("D0", "schemas of other versions, on both databases"),
    "app/test_settings.py": ("F0", "settings that are none"),
    "end_to_end/test_cli.py": ("F0", "commands and starts that cannot be"),
    "contracts/test_options.py": ("F0", "options, each with its test"),
    "end_to_end/test_leaving.py": ("S0", "gateways that leave under load"),
}
"""Tests whose cases are the count: for each file the group of the catalogue and what is tried."""

CASES: Counter[str] = Counter()
"""Tests of these files that passed in this run."""


def drilled(id: str, what: str, counts: Mapping[str, float]) -> None:
    """Add one drill to the table."""
    DRILLS.append(Drill(id=id, what=what, counts=counts))


def markdown() -> str:
    """The table, in the order of the catalogue."""
    lines = list(HEAD)
    cases = [Drill(id=FILES[f][0], what=FILES[f][1], counts={"cases": n}) for f, n in CASES.items()]
    for drill in sorted([*DRILLS, *cases], key=lambda d: (d.id[0], int(d.id[1:]), d.what)):
        counts = ", ".join(f"{name} {value:g}" for name, value in drill.counts.items())
        lines.append(f"| {drill.id} | {drill.what} | {counts} |")
    return "\n".join(lines) + "\n"
