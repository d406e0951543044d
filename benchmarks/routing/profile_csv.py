"""Our own table of profiles: one row for each variant and batch size.

    variant,accuracy,n,batch,p50_ms,p95_ms,p99_ms,cost_usd_per_million,load_ms
    fp32,0.915,10000,1,1.94,3.22,5.09,,74
    fp32,0.915,10000,8,2.98,3.95,4.95,,74
    pruned,0.901,10000,1,0.52,0.67,0.80,,21

Needed: `variant`, `accuracy` (a ratio, or percent where any is above 1) and one time: `p50_ms`
with or without `p95_ms` and `p99_ms`, or `latency_ms` or `mean_ms` alone (then the stated
log-normal spread). `batch` is 1 where absent; where a variant has batch 1 only, longer batches
take as long as their rows one by one. The rest is optional; `n` is how many test rows the accuracy
is of (10,000).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from benchmarks.routing.csv_table import Line, Table
from benchmarks.routing.ladder import Ladder, candidate, in_proportion, ladder_of, log_normal
from router.candidate import Candidate
from variants.errors import Invalid
from variants.profile import BATCHES, Accuracy, Quantiles

COLUMNS = (
    "columns variant, accuracy and p50_ms (with p95_ms, p99_ms) or latency_ms or mean_ms, "
    "optionally n, batch, cost_usd_per_million, load_ms"
)
TIMES = ("p50_ms", "latency_ms", "mean_ms")


def recognises(table: Table) -> bool:
    """Whether the header is this one."""
    return table.has("variant", "accuracy") and any(table.has(name) for name in TIMES)


def ladder(table: Table) -> Ladder:
    """The variants of this table. Raises `Invalid` naming line, column and what is allowed."""
    by_variant: dict[str, list[Line]] = {}
    for line in table.lines:
        by_variant.setdefault(line.text("variant"), []).append(line)
    if len(by_variant) < 2:
        raise Invalid(f"{table.path}: one variant only; routing needs at least two to choose from")
    percent = any(line.number_of("accuracy", zero=True, most=100) > 1 for line in table.lines)
    return ladder_of(
        table.path.stem,
        [_candidate(table, name, lines, percent) for name, lines in by_variant.items()],
    )


def _candidate(table: Table, name: str, lines: Sequence[Line], percent: bool) -> Candidate:
    first = lines[0]
    for line in lines[1:]:
        if line.cells["accuracy"] != first.cells["accuracy"]:
            raise Invalid(
                f"{table.path}, line {line.number}: accuracy {line.cells['accuracy']!r} of "
                f"{name!r} differs from {first.cells['accuracy']!r} in line {first.number}",
                field="accuracy",
            )
    n = round(first.number_of("n")) if first.cells.get("n") else 10_000
    value = first.number_of("accuracy", zero=True, most=100) / (100 if percent else 1)
    cost = _optional(first, "cost_usd_per_million")
    load_ms = _optional(first, "load_ms")
    return candidate(
        name,
        Accuracy.of(round(value * n), n),
        _service(table, lines),
        cost_usd_per_million=cost,
        load_s=None if load_ms is None else load_ms / 1e3,
    )


def _service(table: Table, lines: Sequence[Line]) -> Mapping[int, Quantiles]:
    found: dict[int, Quantiles] = {}
    for line in lines:
        batch = round(line.number_of("batch")) if line.cells.get("batch") else 1
        if batch in found:
            raise Invalid(
                f"{table.path}, line {line.number}: batch {batch} of "
                f"{line.text('variant')!r} is given twice",
                field="batch",
            )
        found[batch] = _quantiles(table, line)
    if list(found) == [1]:
        return in_proportion(found[1], BATCHES)
    return dict(sorted(found.items()))


def _quantiles(table: Table, line: Line) -> Quantiles:
    column = next(name for name in TIMES if table.has(name))
    middle_s = line.number_of(column) / 1e3
    spread = log_normal(middle_s)
    if column != "p50_ms":
        return spread
    p95_s = line.number_of("p95_ms") / 1e3 if line.cells.get("p95_ms") else spread.p95
    p99_s = line.number_of("p99_ms") / 1e3 if line.cells.get("p99_ms") else max(p95_s, spread.p99)
    for low, high in pairwise((middle_s, p95_s, p99_s)):
        if low > high:
            raise Invalid(
                f"{table.path}, line {line.number}: p50 ≤ p95 ≤ p99 does not hold "
                f"({low * 1e3:g} ms above {high * 1e3:g} ms)"
            )
    return Quantiles(p50=middle_s, p95=p95_s, p99=p99_s)


def _optional(line: Line, column: str) -> float | None:
    return line.number_of(column, zero=True) if line.cells.get(column) else None
