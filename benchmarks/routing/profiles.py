"""Profile files to ladders: whatever is given is recognised by what it holds.

- a Gearshift data folder: each model with at least two active, measured variants;
- the documented CSV (`variant,accuracy,batch,…`, see `profile_csv.py`);
- timm's tables: any number of latency tables and one of accuracies (beside them if not given);
- Neural Compressor's table of int8 against fp32: each model with its two variants, pooled.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.routing import data_folder, neural_compressor, profile_csv, timm
from benchmarks.routing.csv_table import Table, read
from benchmarks.routing.ladder import Ladder
from variants.errors import Invalid


def load(paths: Sequence[Path]) -> list[Ladder]:
    """One ladder for each model or table, in the order given; names are made unique.

    Raises `Invalid` for a file that is none of the above, naming what was seen and is allowed.
    """
    ladders: list[Ladder] = []
    tables = [read(path) for path in paths if not path.is_dir()]
    accuracies = [table for table in tables if timm.holds_accuracy(table)]
    host: Ladder | None = None
    for path in paths:
        if path.is_dir():
            ladders += data_folder.ladders(path)
            continue
        table = next(table for table in tables if table.path == path)
        if timm.holds_latency(table):
            host = timm.ladder(table, accuracies[0] if accuracies else _beside(path), host)
            ladders.append(host)
        elif neural_compressor.recognises(table):
            ladders.append(neural_compressor.ladder(table))
        elif profile_csv.recognises(table):
            ladders.append(profile_csv.ladder(table))
        elif not timm.holds_accuracy(table):
            raise Invalid(_unknown(table))
    if accuracies and host is None:
        raise Invalid(
            f"{accuracies[0].path}: accuracies alone say nothing about time; give one of timm's "
            "latency tables (columns model, infer_step_time) too"
        )
    return _named(ladders)


def pairs(ladders: Sequence[Ladder]) -> list[tuple[Ladder, Ladder]]:
    """(believed, real): decide with one table, run on another, over the variants of both.

    Ordered pairs of ladders that share at least half of their variants, and two.
    """
    found = []
    for believed in ladders:
        for real in ladders:
            both = believed.service.keys() & real.service.keys()
            if believed is not real and len(both) >= max(2, len(believed.service) // 2):
                found.append((believed.only(both), real.only(both)))
    return found


def _beside(path: Path) -> Table:
    """timm's accuracies in the same folder."""
    for other in sorted(path.parent.glob("*.csv")):
        try:
            table = read(other)
        except Invalid:
            continue
        if timm.holds_accuracy(table):
            return table
    raise Invalid(
        f"{path}: this table has no accuracies, and no table beside it has (columns model, "
        "img_size, top1); give one with --profiles too"
    )


def _unknown(table: Table) -> str:
    return (
        f"{table.path}, line 1: not a profile table that is known (columns seen: "
        f"{', '.join(table.head)}); allowed: {profile_csv.COLUMNS}; or timm's latency and accuracy "
        "tables, Neural Compressor's int8_vs_fp32 table, or a Gearshift data folder"
    )


def _named(ladders: Sequence[Ladder]) -> list[Ladder]:
    if not ladders:
        raise Invalid("--profiles: nothing to choose from in what was given")
    names = [each.name for each in ladders]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise Invalid(f"--profiles: {', '.join(sorted(twice))} given more than once")
    return list(ladders)
