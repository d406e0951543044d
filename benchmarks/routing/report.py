"""The proof for people: tables in Markdown and plots."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.routing.baselines import OURS

Row = dict[str, Any]
SHORT = re.compile(r"timm_benchmark-infer-fp32-nchw-|-dynamo|_int8_vs_fp32_cpu")


def table(result: Row) -> str:
    """Every baseline beside ours, the targets, each cell, and what each part is worth."""
    found, parts = result["summary"], []
    parts.append(
        tables.markdown(
            ["policy", "ours − theirs, points", "wins", "ties", "losses"],
            [
                [
                    f"`{name}`",
                    f"{100 * each['difference']:+.2f}",
                    *(str(each[verdict]) for verdict in ("wins", "ties", "losses")),
                ]
                for name, each in found["policies"].items()
            ],
        )
    )
    parts.append(_targets(found))
    parts.append(_losses(result["comparisons"]))
    parts.append(_cells(result["comparisons"], result["cells"]))
    ablated = _ablations(result["cells"])
    if ablated:
        parts.append(ablated)
    return "\n".join(parts)


def _targets(found: Row) -> str:
    aimed, behind = found["bursty_overload"], found["behind_best_baseline"]
    ratio = found["regret_to_bound"]["mean_ratio"]
    lines = [
        f"- Bursty arrivals at load 1 and above: {aimed['wins']} wins, {aimed['ties']} ties, "
        f"{aimed['losses']} losses of {aimed['comparisons']} comparisons; without the best single "
        f"variant in hindsight, which nobody can know beforehand: {_told(aimed)}.",
        f"- Behind the best baseline of the cell by more than "
        f"{behind['behind_by_more_than_points']} points: {len(behind['where'])} of "
        f"{behind['cells']} cells.",
        f"- Floors broken: {found['floor_violations']}; cost caps broken: "
        f"{found['cost_violations']}.",
    ]
    if ratio is not None:
        lines.append(f"- Below the clairvoyant bound by {ratio:.1%} on average.")
    if found["decision_us_p50"] is not None:
        lines.append(
            f"- One decision, order and early drop included: {found['decision_us_p50']:.0f} µs "
            "(mean of the cells' medians)."
        )
    return "\n".join(lines) + "\n"


def _name(row: Row) -> str:
    """Trace and ladder, without what the names of public tables repeat."""
    return f"{row['trace']}, {SHORT.sub('', row['profiles'])}"


def _told(aimed: Row) -> str:
    found = aimed["without_hindsight"]
    return f"{found['wins']}, {found['ties']} and {found['losses']}"


def _losses(comparisons: Sequence[Row]) -> str:
    """Every comparison whose interval lies below 0."""
    lines = [
        [
            _name(each),
            str(each["workers"]),
            f"{each['rho']:g}",
            f"`{each['policy']}`",
            f"{100 * each['difference']:+.2f} ({100 * each['low']:+.2f} to "
            f"{100 * each['high']:+.2f})",
        ]
        for each in sorted(comparisons, key=lambda each: each["difference"])
        if each["verdict"] == "loss"
    ]
    head = ["ours loses in", "workers", "load", "to", "by, points (95 %)"]
    return tables.markdown(head, lines) if lines else "Ours loses nowhere.\n"


def _cells(comparisons: Sequence[Row], rows: Sequence[Row]) -> str:
    """One line a cell: ours, the best baseline, their difference, and the bound."""
    bounds = {_key(row): row["bound"] for row in rows}
    lines = []
    for key, group in _grouped(comparisons):
        best = max(group, key=lambda each: each["theirs"])
        verdicts = [each["verdict"] for each in group]
        most = bounds[key]
        lines.append(
            [
                _name(best),
                str(best["workers"]),
                f"{best['rho']:g}",
                f"{best['ours']:.4f}",
                f"{best['theirs']:.4f} `{best['policy']}`",
                f"{100 * best['difference']:+.2f} ({100 * best['low']:+.2f} to "
                f"{100 * best['high']:+.2f})",
                "" if most is None else f"{most:.4f}",
                f"{verdicts.count('win')}/{verdicts.count('tie')}/{verdicts.count('loss')}",
            ]
        )
    head = ["trace, ladder", "workers", "load", "ours", "best baseline"]
    return tables.markdown([*head, "ours − best, points (95 %)", "bound", "w/t/l"], lines)


def _ablations(rows: Sequence[Row]) -> str:
    """Each part taken away, beside ours whole in the same cell."""
    whole = {
        _key(row): row["effective_accuracy"]
        for row in rows
        if row["kind"] == "ablation" and row["policy"] == OURS
    }
    lines = [
        [
            f"{row['policy']}, {_name(row)}",
            f"{row['rho']:g}",
            f"{row['effective_accuracy']:.4f}",
            f"{100 * (row['effective_accuracy'] - whole[_key(row)]):+.2f}",
        ]
        for row in rows
        if row["kind"] == "ablation" and row["policy"] != OURS
    ]
    head = ["without", "load", "effective accuracy", "against the whole, points"]
    return tables.markdown(head, lines) if lines else ""


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("kind", "trace", "profiles", "workers", "rho"))


def _grouped(comparisons: Sequence[Row]) -> Iterator[tuple[tuple[Any, ...], list[Row]]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for each in comparisons:
        groups.setdefault(_key(each), []).append(each)
    yield from groups.items()


def kept(result: Row) -> Row:
    """The result without what the documentation does not show."""
    shown = ("kind", "trace", "profiles", "workers", "rho", "policy", "effective_accuracy")
    return {
        "cells": [
            {name: row[name] for name in (*shown, "attainment", "bound")} for row in result["cells"]
        ],
        "comparisons": result["comparisons"],
        "summary": result["summary"],
    }


def write(result: Row, folder: Path) -> None:
    """`routing.md` and one plot for each trace and ladder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "routing.md").write_text(f"# Routing\n\n{table(result)}", encoding="utf-8")
    traced = [row for row in result["cells"] if row["kind"] == "trace"]
    for trace, profiles in dict.fromkeys((row["trace"], row["profiles"]) for row in traced):
        mine = [r for r in traced if (r["trace"], r["profiles"]) == (trace, profiles)]
        _plot(mine, folder / f"{trace}-{profiles}.png".replace("/", "-"))


def _plot(rows: Sequence[Row], path: Path) -> None:
    """Effective accuracy over load, one panel for each number of workers."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    fleets = sorted({row["workers"] for row in rows})
    figure, axes = pyplot.subplots(
        1, len(fleets), figsize=(4.5 * len(fleets), 4), sharey=True, squeeze=False
    )
    for axis, workers in zip(axes[0], fleets, strict=True):
        here = sorted((r for r in rows if r["workers"] == workers), key=lambda r: r["rho"])
        for policy in dict.fromkeys(row["policy"] for row in here):
            points = [(r["rho"], r["effective_accuracy"]) for r in here if r["policy"] == policy]
            ours = policy == OURS
            axis.plot(
                *zip(*points, strict=True),
                label=policy,
                linewidth=2.5 if ours else 0.9,
                color="black" if ours else None,
                zorder=3 if ours else 2,
            )
        most = [(r["rho"], r["bound"]) for r in here if r["policy"] == OURS and r["bound"]]
        if most:
            axis.plot(*zip(*most, strict=True), "k--", linewidth=1, label="bound")
        axis.set_title(f"{workers} worker{'s' if workers > 1 else ''}")
        axis.set_xlabel("offered load ÷ capacity of the most accurate")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("effective accuracy")
    axes[0][-1].legend(fontsize=6)
    figure.suptitle(f"{rows[0]['trace']}, {rows[0]['profiles']}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
