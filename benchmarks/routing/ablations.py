"""What each part of the router is worth: ours without it, on the same arrivals.

The bound by which a part is judged is ours whole, in the same cell. No look-ahead is
`greedy_deadline`: the same ranking, batches and drops, and the head's deadline alone. Load cost has
no row, because the policy that serves by default loads nothing by itself.
"""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.routing.baselines import OURS
from benchmarks.routing.cells import Cell


def ablations(cell: Cell) -> Sequence[Cell]:
    """Ours whole and without one part each, in this cell; correction where the host has drifted."""
    whole = replace(cell, kind="ablation", policies=(OURS,), bounded=False)
    rules = whole.rules
    drifted = replace(
        whole,
        profiles=f"{cell.ladder.name} ×2 mid-run",
        rules=replace(rules, drift=2.0, correction=True),
    )
    return (
        whole,
        replace(whole, label=" − EDF", rules=replace(rules, edf=False)),
        replace(whole, label=" − early drop", rules=replace(rules, early_drop=False)),
        replace(whole, label=" − quantiles", believed=cell.ladder.by_means()),
        replace(whole, policies=("greedy_deadline",), label=" (ours − look-ahead)"),
        drifted,
        replace(drifted, label=" − correction", rules=replace(rules, drift=2.0)),
    )
