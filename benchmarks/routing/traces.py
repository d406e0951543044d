"""Recorded arrivals: three file formats, one sorted array of seconds.

1. A CSV with a time column: ISO 8601 dates and times, or numbers (seconds; since a window is
   rescaled to the load under test, the unit is of no account). The column is `--column`, else
   the first whose name says time, else the first whose values read as one. Where a `duration`
   column stands beside an end time, the arrival is their difference.
2. A CSV of (period, count): requests in each period, in order. They are placed inside their
   periods by a seeded renewal process with Gamma gaps; CV² 1 is Poisson. The column is known by
   its name, or by whole numbers beside one that is named for periods, or not at all, and ticks
   evenly.
3. JSON lines with `timestamp` in milliseconds.

Separator comma, semicolon or tab; a byte-order mark, blank lines and a missing header are fine.
Raises `Invalid` naming the file, the line, what was seen and what is allowed.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from variants.errors import Invalid

TIME = re.compile(r"time|date|arriv|^ts$|invoked|start|period|minute|second", re.IGNORECASE)
COUNT = re.compile(r"^(n|num|value)?_?(counts?|requests|invocations|arrivals|hits)$", re.IGNORECASE)
PERIOD = re.compile(r"period|minute|hour|interval|bin|bucket|window|^column", re.IGNORECASE)
FEWEST = 30
"""With fewer arrivals there is nothing to tune on and nothing to compare."""

MOST = 20_000
"""Counts are thinned to about so many arrivals in all; thinning keeps the shape of the rate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """Arrival times in seconds from the first, sorted. `name` is the file's without its ending.

    `spread` says that they were placed inside counted periods.
    """

    name: str
    at_s: NDArray[np.float64]
    spread: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of a CSV and where it stands."""

    line: int
    cells: tuple[str, ...]


def read(path: Path, *, column: str | None = None, cv2: float = 1.0, seed: int = 0) -> Trace:
    """The trace in this file. `cv2` and `seed` place the requests of a (period, count) file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{path}: cannot be read as UTF-8 text ({error})") from error
    spread = False
    times: Sequence[float] | NDArray[np.float64]
    if text.lstrip()[:1] == "{":
        times = _json_lines(path, text)
    else:
        times, spread = _csv(path, text, column=column, cv2=cv2, seed=seed)
    if len(times) < FEWEST:
        raise Invalid(f"{path}: {len(times)} arrivals; at least {FEWEST} are needed")
    at_s = np.sort(np.asarray(times, dtype=np.float64))
    at_s -= at_s[0]
    if at_s[-1] <= 0:
        raise Invalid(f"{path}: all {len(at_s)} arrivals have the same time; there is no rate")
    name = (
        f"{path.stem}, {'Poisson' if cv2 == 1 else f'Gamma CV² {cv2:g}'}" if spread else path.stem
    )
    return Trace(name=name, at_s=at_s, spread=spread)


def _json_lines(path: Path, text: str) -> list[float]:
    times = []
    for line, row in enumerate(text.splitlines(), start=1):
        if not row.strip():
            continue
        try:
            found = json.loads(row)["timestamp"]
            if isinstance(found, bool) or not math.isfinite(found):
                raise TypeError
            times.append(found / 1000)
        except (ValueError, KeyError, TypeError) as error:
            allowed = 'an object with a finite number "timestamp" (milliseconds)'
            raise Invalid(f"{path}, line {line}: {_shown(row)} is not {allowed}") from error
    return times


def _csv(
    path: Path, text: str, *, column: str | None, cv2: float, seed: int
) -> tuple[Sequence[float] | NDArray[np.float64], bool]:
    """The times, and whether they were spread over counted periods."""
    rows = list(_rows(text))
    if not rows:
        raise Invalid(f"{path}: the file is empty; allowed: CSV or JSON lines of arrivals")
    head = rows[0].cells
    if _moment(head[0]) is not None:
        head, data = tuple(f"column {index + 1}" for index in range(len(head))), rows
    else:
        data = rows[1:]
    if not data:
        raise Invalid(f"{path}: there is a header and no data below it")
    count = next((index for index, name in enumerate(head) if COUNT.match(name)), None)
    index = _column(path, head, data[0], column, skip=count)
    unnamed = count is None and column is None and len(head) == 2
    if unnamed and PERIOD.search(head[index]) and _steady(data, index):
        count = 1 - index
    if count is not None and column is None:
        return _spread(path, data, head, index, count, cv2=cv2, seed=seed), True
    times = [_time(path, row, head, index) for row in data]
    duration = next((i for i, name in enumerate(head) if name.lower() == "duration"), None)
    if duration is not None and "end" in head[index].lower():
        spans = [_number(path, row, head, duration) for row in data]
        times = [end - span for end, span in zip(times, spans, strict=True)]
    return times, False


def _steady(data: Sequence[Row], index: int) -> bool:
    """Whether one column ticks evenly and the other holds whole numbers: counts without a name."""
    if any(len(row.cells) != 2 or not row.cells[1 - index].isdigit() for row in data):
        return False
    times = [_moment(row.cells[index]) for row in data]
    steps = np.diff([at for at in times if at is not None])
    return len(steps) == len(data) - 1 > 1 and steps[0] > 0 and np.allclose(steps, steps[0])


def _rows(text: str) -> Iterator[Row]:
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(",;\t", key=first.count)
    reader = csv.reader(text.splitlines(), delimiter=separator)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield Row(line=reader.line_num, cells=tuple(cell.strip() for cell in cells))


def _column(
    path: Path, head: Sequence[str], first: Row, asked: str | None, *, skip: int | None
) -> int:
    names = ", ".join(head)
    if asked is not None:
        if asked not in head:
            raise Invalid(f"{path}: no column {asked!r}; there are: {names}", field="--column")
        return head.index(asked)
    readable = [
        index
        for index, cell in enumerate(first.cells[: len(head)])
        if index != skip and _moment(cell) is not None
    ]
    named = [index for index in readable if TIME.search(head[index])]
    if named or readable:
        return (named or readable)[0]
    raise Invalid(
        f"{path}, line {first.line}: no column reads as a time (columns: {names}; seen: "
        f"{_shown(','.join(first.cells))}); allowed: ISO 8601 or seconds, and --column NAME"
    )


def _moment(cell: str) -> float | None:
    """Seconds, from a number or from an ISO date and time (UTC where it names no zone)."""
    try:
        number = float(cell)
        return number if math.isfinite(number) else None
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(cell)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _time(path: Path, row: Row, head: Sequence[str], index: int) -> float:
    cell = row.cells[index] if index < len(row.cells) else ""
    moment = _moment(cell)
    if moment is None:
        raise Invalid(
            f"{path}, line {row.line}: {_shown(cell)} in column {head[index]!r} is not a time; "
            "allowed: ISO 8601 or a finite number of seconds",
            field=head[index],
        )
    return moment


def _number(path: Path, row: Row, head: Sequence[str], index: int) -> float:
    cell = row.cells[index] if index < len(row.cells) else ""
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise Invalid(
            f"{path}, line {row.line}: {_shown(cell)} in column {head[index]!r} is not allowed; "
            "it must be a finite number, at least 0",
            field=head[index],
        )
    return number


def _spread(
    path: Path,
    data: Sequence[Row],
    head: Sequence[str],
    period: int,
    count: int,
    *,
    cv2: float,
    seed: int,
) -> NDArray[np.float64]:
    """Arrivals of a renewal process with Gamma gaps whose rate follows the counts.

    A unit-rate process is mapped through the inverse of the cumulated counts (time rescaling:
    D. Cox and P. Lewis, "The statistical analysis of series of events", 1966). Counts of more
    than `MOST` requests in all are scaled down to it.
    """
    starts = np.array([_time(path, row, head, period) for row in data])
    counts = np.array([_number(path, row, head, count) for row in data])
    steps = np.diff(starts)
    if len(starts) < 2 or np.any(steps <= 0):
        line = data[int(np.argmax(steps <= 0)) + 1].line if len(starts) > 1 else data[0].line
        raise Invalid(
            f"{path}, line {line}: periods must follow one another in ascending order, two at least"
        )
    if counts.sum() <= 0:
        raise Invalid(f"{path}: every count is 0")
    edges = np.append(starts, starts[-1] + np.median(steps))
    load = np.concatenate([[0.0], np.cumsum(counts * min(1.0, MOST / counts.sum()))])
    shape = 1 / cv2
    gaps = np.random.default_rng(seed).gamma(shape, cv2, int(load[-1] * 1.2) + 100)
    epochs = np.cumsum(gaps)
    return np.interp(epochs[epochs < load[-1]], load, edges)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
