"""`gearshift build`, `gearshift report` and `gearshift techniques`.

`register` mounts them on the program's command line. Their context object offers `data_dir`,
`open_data` and `prices`, which come from the settings. Exit status: 0 when all is there, 1 when a
recipe failed or was refused or the machine would not do it, 2 for a plan or a command line that is
wrong.
"""

import json
import sys
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Protocol, cast

import typer

from variants.errors import Conflict, GearshiftError, Invalid, NotFound

if TYPE_CHECKING:
    from rich.console import Console

    from compressors.goal import Goal
    from compressors.outcome import Outcome, Watch
    from compressors.plan import Plan
    from compressors.report import Row
    from variants.cost import Prices
    from variants.data_folder import DataFolder

MEBI = 2**20
WIDE = 132
"""Characters a line from which on tables show everything."""


class Context(Protocol):
    """What these commands need from the program around them."""

    @property
    def data_dir(self) -> Path:
        """The data folder that build and gateway share."""
        ...

    def open_data(self) -> "AbstractContextManager[DataFolder]":
        """The store and the database of it, open until the context ends."""
        ...

    @property
    def prices(self) -> "Prices":
        """What the host costs."""
        ...


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("build")(build)
    app.command("report")(report)
    app.command("techniques")(list_techniques)


def build(
    ctx: typer.Context,
    plan: Annotated[Path, typer.Argument(help="The plan, a TOML file.", show_default=False)],
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Build this recipe and its ancestors; may be repeated."),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="Then look for better recipes, such as 'accuracy>=ref-1pp, minimise=latency'.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str, typer.Option(help="How long to search: a number with s, m or h.")
    ] = "30m",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a recipe on standard output.")
    ] = False,
) -> None:
    """Build, measure and publish the variants that a plan describes."""
    from compressors import goal
    from compressors import plan as plans
    from compressors.progress import Bars

    try:
        checked = plans.load(plan)
        wish = None if search is None else (goal.parse(search), goal.seconds(budget))
        if wish is not None and only:
            raise Invalid("--search looks at the whole plan; leave --only out", field="only")
        if as_json:
            outcomes, verdict = _build(ctx, checked, only or [], wish, _Lines())
            if verdict:
                print(json.dumps({"search": verdict}), flush=True)
        else:
            with Bars() as bars:
                outcomes, verdict = _build(ctx, checked, only or [], wish, bars)
            _print_outcomes(outcomes)
            if verdict:
                _console().print(verdict, highlight=False, markup=False)
    except GearshiftError as error:
        _stop(error)
    if not all(outcome.good for outcome in outcomes):
        raise typer.Exit(1)


def report(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Option(help="Only this model's variants.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON list on standard output, and no page.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the pages and the picture; `report` in the data folder unless stated.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show what was measured, and write HTML pages and a picture of it."""
    from compressors import page
    from compressors import report as reports

    context = cast(Context, ctx.obj)
    try:
        with context.open_data() as folder:
            models = reports.read(folder, context.prices, model)
        rows = tuple(row for one in models for row in one.rows)
        if as_json:
            print(json.dumps([row.as_json() for row in rows], indent=2))
            if out is None:
                return
        else:
            _print_rows(rows)
        pages, picture = page.write(models, out or context.data_dir / "report")
    except GearshiftError as error:
        _stop(error)
    if not as_json:
        print("".join(f"page     {path}\n" for path in pages) + f"picture  {picture}")


def list_techniques(
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list.")] = False,
) -> None:
    """Every compression technique: what it needs, where it pays and when to use it."""
    from compressors import techniques

    every = {name: techniques.find(name) for name in techniques.names()}
    if as_json:
        print(json.dumps([techniques.describe(n, t) for n, t in every.items()], indent=2))
        return
    from rich.table import Table

    table = Table("technique", "family", "libraries", "hardware", "when to use it")
    table.columns[0].no_wrap = True
    for name, technique in sorted(every.items(), key=lambda item: (item[1].FAMILY, item[0])):
        libraries = ", ".join(technique.REQUIRES)
        table.add_row(name, technique.FAMILY, libraries, technique.HARDWARE, technique.GUIDE)
    _console().print(table)


def _build(
    ctx: typer.Context,
    plan: "Plan",
    only: list[str],
    wish: "tuple[Goal, float] | None",
    watch: "Watch",
) -> tuple[tuple["Outcome", ...], str]:
    """How each recipe ended, and what the search has to say."""
    from compressors.build import build as run

    with cast(Context, ctx.obj).open_data() as folder:
        if wish is None:
            return run(plan, folder, only=only, watch=watch), ""
        from compressors.search import search

        goal, budget_s = wish
        found = search(plan, folder, goal, budget_s=budget_s, watch=watch)
        return found.outcomes, found.verdict


class _Lines:
    """A watch that prints one JSON object for each recipe that ended."""

    def begin(self, work: object) -> None:
        """Say nothing."""

    def phase(self, recipe: str, doing: str, work: float) -> Any:
        """Say nothing."""
        return lambda _: None

    def end(self, outcome: "Outcome") -> None:
        """Print the outcome."""
        manifest = outcome.manifest
        accuracy = manifest.accuracy if manifest else None
        line = {
            "model": outcome.model,
            "variant": outcome.variant,
            "status": outcome.status,
            "reason": outcome.reason,
            "note": outcome.note,
            "id": manifest.id if manifest else None,
            "technique": manifest.technique if manifest else None,
            "runtime": manifest.runtime if manifest else None,
            "accuracy": asdict(accuracy) if accuracy else None,
            "size_bytes": manifest.artifact.size_bytes if manifest else None,
            "build_s": manifest.build_s if manifest else None,
            "evaluation": asdict(manifest.evaluation) if manifest and manifest.evaluation else None,
        }
        print(json.dumps(line), flush=True)


def _print_outcomes(outcomes: tuple["Outcome", ...]) -> None:
    from rich.table import Table

    table = Table("variant", "status", "accuracy", "latency", "file", "build", "reason")
    table.columns[0].no_wrap = True
    for outcome in outcomes:
        manifest = outcome.manifest
        numbers = ["", "", "", ""]
        if manifest is not None and manifest.profile is not None:
            numbers = [
                f"{manifest.accuracy.value:.2%}" if manifest.accuracy else "",
                f"{manifest.profile.latency_s[1].p50 * 1e3:.3f} ms",
                f"{manifest.artifact.size_bytes / MEBI:.2f} MiB",
                f"{manifest.build_s:.0f} s" if manifest.build_s is not None else "",
            ]
        table.add_row(outcome.variant, outcome.status, *numbers, outcome.reason)
    console = _console()
    console.print(table)
    for note in sorted({outcome.note for outcome in outcomes if outcome.note}):
        console.print(f"Data: {note}", highlight=False, markup=False)


def _print_rows(rows: tuple["Row", ...]) -> None:
    from rich.table import Table

    console = _console()
    several = len({row.model for row in rows}) > 1
    table = Table(title="Measured variants, latency at batch 1")
    table.add_column("variant", no_wrap=True)
    for heading in _columns(rows[0], console.width) if rows else ():
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        name = f"{row.model}: {row.variant}" if several else row.variant
        table.add_row(name, *_columns(row, console.width).values())
    console.print(table)


def _columns(row: "Row", width: int) -> dict[str, str]:
    """A row's cells by heading; a narrow console gets the most telling ones."""
    accuracy, latency = row.accuracy, row.latency_s[1]
    wide = {
        "p95 ms": f"{latency.p95 * 1e3:.3f}",
        "file MiB": f"{row.size_bytes / MEBI:.2f}",
        "load s": f"{row.load_s:.3f}",
        "USD/M": f"{row.cost_usd_per_million:.4f}",
        "runtime": row.runtime,
    }
    cells = {
        "accuracy (95 %)": f"{accuracy.value:.2%} ({accuracy.low:.1%} to {accuracy.high:.1%})"
        if accuracy
        else "not measured",
        "p50 ms": f"{latency.p50 * 1e3:.3f}",
        "per s": f"{row.throughput_per_s:,.0f}",
        "MiB": f"{row.memory_bytes / MEBI:.1f}",
        "front": "●" if row.pareto else "–",
    }
    return {**cells, **wide} if width >= WIDE else cells


def _console() -> "Console":
    """Standard output; a log gets lines long enough for whole tables."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDE)


def _stop(error: GearshiftError) -> NoReturn:
    """One line on standard error, and the exit status that fits."""
    print(error, file=sys.stderr)
    raise typer.Exit(2 if isinstance(error, Invalid | Conflict | NotFound) else 1) from error
