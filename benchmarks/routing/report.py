"""The proof for people: tables in Markdown and plots."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.routing.baselines import OURS

Row = dict[str, Any]
TOLD = 0.0005
"""Losses by less are counted and not listed."""

DIGITS = 6
SHORT = re.compile(r"timm_benchmark-infer-fp32-nchw-|-dynamo|_int8_vs_fp32_cpu")


def digest(result: Row) -> Row:
    """What the tables show, and no more: fit to be kept beside the documentation."""
    found = result["summary"]
    bounds = {_key(row): row["bound"] for row in result["cells"]}
    aimed, behind = found["bursty_overload"], found["behind_best_baseline"]
    losses = [each for each in result["comparisons"] if each["verdict"] == "loss"]
    told = [each for each in losses if each["difference"] <= -TOLD]
    return {
        "policies": found["policies"],
        "bursty_overload": {name: aimed[name] for name in aimed if name != "not_won"},
        "behind_best_baseline": {**behind, "where": len(behind["where"])},
        "regret_to_bound": found["regret_to_bound"],
        "violations": found["floor_violations"] + found["cost_violations"],
        "decision_us_p50": found["decision_us_p50"],
        "losses": [_rounded(each) for each in sorted(told, key=lambda each: each["difference"])],
        "small_losses": len(losses) - len(told),
        "cells": [
            {**_rounded(max(group, key=lambda each: each["theirs"])), **_counts(group)}
            | {"bound": None if bounds[key] is None else round(bounds[key], DIGITS)}
            for key, group in _grouped(result["comparisons"])
        ],
        "ablations": _ablations(result["cells"]),
    }


def table(kept: Row) -> str:
    """A digest in Markdown: every baseline, the targets, the losses, each cell and each part."""
    parts = [_policies(kept), _targets(kept), _losses(kept), _cells(kept)]
    if kept["ablations"]:
        parts.append(_parts(kept))
    return "\n".join(parts)


def _policies(kept: Row) -> str:
    lines = [
        [
            f"`{name}`",
            f"{100 * each['difference']:+.2f}",
            *(str(each[verdict]) for verdict in ("wins", "ties", "losses")),
        ]
        for name, each in kept["policies"].items()
    ]
    return tables.markdown(["policy", "ours − theirs, points", "wins", "ties", "losses"], lines)


def _targets(kept: Row) -> str:
    aimed, behind = kept["bursty_overload"], kept["behind_best_baseline"]
    known = aimed["without_hindsight"]
    ratio = kept["regret_to_bound"]["mean_ratio"]
    lines = [
        f"- Bursty arrivals at load 1 and above: {aimed['wins']} wins, {aimed['ties']} ties, "
        f"{aimed['losses']} losses of {aimed['comparisons']} comparisons; without the best single "
        f"variant in hindsight, which nobody can know beforehand: {known['wins']}, "
        f"{known['ties']} and {known['losses']}.",
        f"- Behind the best baseline of the cell by more than "
        f"{behind['behind_by_more_than_points']} points: {behind['where']} of "
        f"{behind['cells']} cells.",
        f"- Floors and cost caps broken: {kept['violations']}.",
    ]
    if ratio is not None:
        lines.append(f"- Below the clairvoyant bound by {ratio:.1%} on average.")
    if kept["decision_us_p50"] is not None:
        lines.append(
            f"- One decision, early drop included: {kept['decision_us_p50']:.0f} µs (mean of the "
            "cells' medians)."
        )
    return "\n".join(lines) + "\n"


def _losses(kept: Row) -> str:
    """Every comparison whose interval lies below 0, the small ones counted."""
    lines = [
        [
            _name(each),
            str(each["workers"]),
            f"{each['rho']:g}",
            f"`{each['policy']}`",
            _interval(each),
        ]
        for each in kept["losses"]
    ]
    head = ["ours loses in", "workers", "load", "to", "by, points (95 %)"]
    small = kept["small_losses"]
    more = f"Losses of less than {100 * TOLD:g} points: {small}.\n"
    return f"{tables.markdown(head, lines)}\n{more}" if lines else more


def _cells(kept: Row) -> str:
    """One line a cell: ours, the best baseline, their difference, and the bound."""
    lines = [
        [
            _name(each),
            str(each["workers"]),
            f"{each['rho']:g}",
            f"{each['ours']:.4f}",
            f"{each['theirs']:.4f} `{each['policy']}`",
            _interval(each),
            "" if each["bound"] is None else f"{each['bound']:.4f}",
            f"{each['wins']}/{each['ties']}/{each['losses']}",
        ]
        for each in kept["cells"]
    ]
    head = ["trace, ladder", "workers", "load", "ours", "best baseline"]
    return tables.markdown([*head, "ours − best, points (95 %)", "bound", "w/t/l"], lines)


def _parts(kept: Row) -> str:
    """Each part taken away, beside ours whole in the same cell."""
    lines = [
        [
            f"{each['policy']}, {_name(each)}",
            f"{each['rho']:g}",
            f"{each['effective_accuracy']:.4f}",
            f"{100 * each['difference']:+.2f}",
        ]
        for each in kept["ablations"]
    ]
    head = ["without", "load", "effective accuracy", "against the whole, points"]
    return tables.markdown(head, lines)


def _ablations(rows: Sequence[Row]) -> list[Row]:
    mine = [row for row in rows if row["kind"] == "ablation"]
    whole = {_key(row): row["effective_accuracy"] for row in mine if row["policy"] == OURS}
    return [
        {
            **{name: row[name] for name in ("policy", "trace", "profiles", "rho")},
            "effective_accuracy": round(row["effective_accuracy"], DIGITS),
            "difference": round(row["effective_accuracy"] - whole[_key(row)], DIGITS),
        }
        for row in mine
        if row["policy"] != OURS
    ]


def _name(row: Row) -> str:
    """Trace and ladder, without what the names of public tables repeat."""
    return f"{row['trace']}, {SHORT.sub('', row['profiles'])}"


def _interval(row: Row) -> str:
    low, high = 100 * row["low"], 100 * row["high"]
    return f"{100 * row['difference']:+.2f} ({low:+.2f} to {high:+.2f})"


def _counts(group: Sequence[Row]) -> Row:
    verdicts = [each["verdict"] for each in group]
    return {
        name: verdicts.count(verdict)
        for name, verdict in (("wins", "win"), ("ties", "tie"), ("losses", "loss"))
    }


def _rounded(comparison: Row) -> Row:
    shown = ("trace", "profiles", "workers", "rho", "policy")
    numbers = ("ours", "theirs", "difference", "low", "high")
    return {name: comparison[name] for name in shown} | {
        name: round(comparison[name], DIGITS) for name in numbers
    }


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("kind", "trace", "profiles", "workers", "rho"))


def _grouped(comparisons: Sequence[Row]) -> Iterator[tuple[tuple[Any, ...], list[Row]]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for each in comparisons:
        groups.setdefault(_key(each), []).append(each)
    yield from groups.items()


def write(result: Row, folder: Path) -> None:
    """`routing.md` and one plot for each trace and ladder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "routing.md").write_text(f"# Routing\n\n{table(digest(result))}", encoding="utf-8")
    traced = [row for row in result["cells"] if row["kind"] == "trace"]
    for trace, profiles in dict.fromkeys((row["trace"], row["profiles"]) for row in traced):
        mine = [r for r in traced if (r["trace"], r["profiles"]) == (trace, profiles)]
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{trace}-{profiles}")
        _plot(mine, folder / f"{name}.png")


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
