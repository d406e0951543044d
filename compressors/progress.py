"""Progress bars on standard error: the whole build and the present phase, each with time left."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from compressors.outcome import Outcome
from variants import measure

_MARKS = {"published": "[green]✓", "skipped": "[dim]=", "refused": "[yellow]✗", "failed": "[red]✗"}


class Bars:
    """A watch that draws two bars and leaves one line for each recipe that ended."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            transient=True,
        )
        self._whole = self._progress.add_task("build", total=None)
        self._step = self._progress.add_task("", total=1.0, visible=False)
        self._work: dict[str, float] = {}
        self._before = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def begin(self, work: Mapping[str, float]) -> None:
        """Size the whole bar."""
        self._work = dict(work)
        self._progress.update(self._whole, total=sum(work.values()) or 1.0)

    def phase(self, recipe: str, doing: str, work: float) -> measure.Progress:
        """Start the lower bar anew."""
        self._progress.reset(self._step, description=f"{recipe}: {doing}", visible=True, total=1.0)
        start = self._progress.tasks[self._whole].completed

        def report(share: float) -> None:
            self._progress.update(self._step, completed=share)
            self._progress.update(self._whole, completed=start + share * work)

        return report

    def end(self, outcome: Outcome) -> None:
        """Leave a line for the recipe and settle its share of the whole bar."""
        self._before += self._work.get(outcome.variant, 0.0)
        self._progress.update(self._whole, completed=self._before)
        self._progress.update(self._step, visible=False)
        reason = f": {outcome.reason}" if outcome.reason else ""
        self._progress.console.print(
            f"{_MARKS[outcome.status]}[/] {outcome.variant} {outcome.status}{reason}",
            highlight=False,
        )
