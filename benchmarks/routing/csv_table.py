"""A CSV table that knows where each cell stands, so that an error can say so."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from variants.errors import Invalid


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One row: its line in the file and its cells by column name in lower case."""

    path: Path
    number: int
    cells: dict[str, str]

    def text(self, column: str) -> str:
        """A cell that must say something."""
        found = self.cells.get(column, "")
        if not found:
            raise Invalid(
                f"{self.path}, line {self.number}: {column!r} is empty; a name is needed",
                field=column,
            )
        return found

    def number_of(
        self, column: str, *, above: float = 0.0, zero: bool = False, most: float = math.inf
    ) -> float:
        """A finite number above `above` (or 0 where allowed) and at most `most`."""
        cell = self.cells.get(column, "")
        try:
            found = float(cell)
        except ValueError:
            found = math.nan
        if not (
            math.isfinite(found) and (found > above or (zero and found == 0)) and found <= most
        ):
            upper = "" if math.isinf(most) else f" and at most {most:g}"
            lower = "at least 0" if zero else f"above {above:g}"
            raise Invalid(
                f"{self.path}, line {self.number}: {cell!r} in column {column!r} is not allowed; "
                f"it must be a finite number {lower}{upper}",
                field=column,
            )
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A header in lower case and the rows below it."""

    path: Path
    head: tuple[str, ...]
    lines: tuple[Line, ...]

    def has(self, *columns: str) -> bool:
        """Whether all of these columns are there."""
        return set(columns) <= set(self.head)


def read(path: Path) -> Table:
    """The table in this file. Raises `Invalid` where it cannot be read or has no rows."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{path}: cannot be read as UTF-8 text ({error})") from error
    first = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(text.splitlines(), delimiter=max(",;\t", key=first.count))
    head: tuple[str, ...] = ()
    lines = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if not head:
            head = tuple(cell.strip().lower() for cell in cells)
            continue
        lines.append(_line(path, reader.line_num, head, cells))
    if not lines:
        raise Invalid(f"{path}: no rows; a header and at least one row are needed")
    return Table(path=path, head=head, lines=tuple(lines))


def _line(path: Path, number: int, head: Sequence[str], cells: Sequence[str]) -> Line:
    if len(cells) != len(head):
        raise Invalid(
            f"{path}, line {number}: {len(cells)} cells under a header of {len(head)} "
            f"({', '.join(head)})"
        )
    return Line(
        path=path,
        number=number,
        cells={name: cell.strip() for name, cell in zip(head, cells, strict=True)},
    )
