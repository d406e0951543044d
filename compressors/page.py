"""The report as HTML: an index and one page a model, each a single file that needs nothing else.

Works from 360 pixels on, in light and dark, by keyboard and read aloud. Holds no script.
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from compressors.report import Confusion, ModelReport, Row, describe
from variants.evidence import Interval

if TYPE_CHECKING:
    from jinja2 import Environment

INDEX = "index.html"
PICTURE = "pareto.png"
MAX_CLASSES = 20
"""Confusion tables show at most so many classes: those with the most changed answers."""
MAX_LAYERS = 20
NO_BREAK = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"


def write(models: Sequence[ModelReport], folder: Path) -> tuple[tuple[Path, ...], Path]:
    """The pages and the picture of all models in `folder`, replacing older ones.

    Returns the paths of the pages, the index first, and that of the picture.
    """
    from compressors import figure

    folder.mkdir(parents=True, exist_ok=True)
    environment = _environment()
    every = [row for model in models for row in model.rows]
    picture = folder / PICTURE
    figure.draw(every, picture, dark=False)
    pages = [folder / INDEX]
    pages[0].write_text(
        environment.get_template("report_index.html.jinja").render(
            models=models, picture=_pictures(every), alt=describe(every)
        ),
        encoding="utf-8",
    )
    for model in models:
        pages.append(folder / file_name(model.spec.name))
        pages[-1].write_text(_model(environment, model), encoding="utf-8")
    return tuple(pages), picture


def file_name(model: str) -> str:
    """The name of a model's page. No model's name holds `~`, so none takes the index's place."""
    return f"{model}~.html" if f"{model}.html" == INDEX else f"{model}.html"


def _model(environment: "Environment", model: ModelReport) -> str:
    agreements = [
        row.evaluation.agreement
        for row in model.rows
        if row.evaluation is not None and row.evaluation.agreement is not None
    ]
    reach = (
        max(abs(end) for a in agreements for end in (a.difference.low, a.difference.high))
        if agreements
        else 1.0
    )
    return environment.get_template("report_model.html.jinja").render(
        model=model,
        rows=model.rows,
        batches=sorted({b for row in model.rows for p in row.profiles for b in p.latency_s}),
        reference=next((row for row in model.rows if row.reference), None),
        reach=reach or 1.0,
        confusions={one.variant: _shown(one, model.spec.labels) for one in model.confusions},
        max_layers=MAX_LAYERS,
        picture=_pictures(model.rows),
        alt=describe(model.rows),
    )


def _pictures(rows: Sequence[Row]) -> dict[str, str]:
    """The scatter plot in base64, by shade and width."""
    from compressors import figure

    return {
        f"{shade}_{width}": base64.b64encode(
            figure.render(rows, dark=shade == "dark", narrow=width == "narrow")
        ).decode()
        for shade in ("light", "dark")
        for width in ("wide", "narrow")
    }


def _shown(confusion: Confusion, labels: Sequence[str]) -> dict[str, Any]:
    """What the template needs of a confusion table: labels, counts and shades from 0 to 1."""
    counts = confusion.counts
    moved = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    chosen = np.sort(np.argsort(-moved, kind="stable")[:MAX_CLASSES])
    cut = counts[np.ix_(chosen, chosen)]
    beside = cut - np.diag(cut.diagonal())
    names = [labels[i] if i < len(labels) else str(i) for i in chosen]
    return {
        "labels": names,
        "counts": cut.tolist(),
        "shades": (np.sqrt(beside / max(1, beside.max()))).round(3).tolist(),
        "left_out": len(counts) - len(chosen),
        "changed": int(counts.sum() - counts.diagonal().sum()),
        "n": int(counts.sum()),
    }


def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("compressors", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=_percent,
        share=lambda interval: _interval(interval, 100, 1, "%"),
        points=_points,
        ms=lambda seconds: _significant(seconds * 1e3),
        mib=lambda size: f"{size / 2**20:.2f}" if size < 10 * 2**20 else f"{size / 2**20:.1f}",
        significant=_significant,
        file_name=lambda name: quote(file_name(name)),
    )
    return environment


def _percent(value: float, digits: int = 2) -> str:
    return f"{value * 100:.{digits}f}{NO_BREAK}%"


def _interval(interval: Interval, factor: float, digits: int, unit: str) -> str:
    value, low, high = (
        f"{number * factor:.{digits}f}" for number in (interval.value, interval.low, interval.high)
    )
    return f"{value}{NO_BREAK}{unit} ({low}\N{EN DASH}{high})"


def _points(value: float) -> str:
    """Percentage points with their sign."""
    text = f"{value * 100:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", MINUS)


def _significant(value: float) -> str:
    """Three significant digits, without exponent where that is readable."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.1e}".replace("-", MINUS)
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{digits}f}".replace("-", MINUS)
