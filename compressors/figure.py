"""The picture: accuracy against latency, memory as marker size, the Pareto front as a line.

Colours are from M. Okabe and K. Ito's palette, which stays distinct for colour-blind readers;
dominated variants are hollow too, so nothing depends on colour.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from compressors.report import Row

WIDTH_IN, HEIGHT_IN, DPI = 10.0, 6.25, 160
NARROW_IN = 4.6
"""Both sides of the picture for a telephone, whose letters stay legible at half its size."""
FRONT, DOMINATED = "#0072B2", "#D55E00"
FRONT_ON_DARK, DOMINATED_ON_DARK = "#56B4E9", "#E69F00"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Theme:
    text: str
    page: str
    grid: str
    front: str
    dominated: str


LIGHT = _Theme(text="#1b1f24", page="#ffffff", grid="#d0d7de", front=FRONT, dominated=DOMINATED)
DARK = _Theme(
    text="#e6edf3",
    page="#14181d",
    grid="#3d444d",
    front=FRONT_ON_DARK,
    dominated=DOMINATED_ON_DARK,
)


def draw(rows: "Sequence[Row]", path: Path, *, dark: bool) -> None:
    """Write the picture as a PNG file."""
    path.write_bytes(render(rows, dark=dark))


def render(rows: "Sequence[Row]", *, dark: bool, narrow: bool = False) -> bytes:
    """The picture as PNG bytes: 1600 × 1000 pixels, or 736 × 736 where `narrow`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    theme = DARK if dark else LIGHT
    size = (NARROW_IN, NARROW_IN) if narrow else (WIDTH_IN, HEIGHT_IN)
    figure = Figure(figsize=size, dpi=DPI, facecolor=theme.page, layout="tight")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _style(axes, theme, narrow=narrow)
    shown = [row for row in rows if row.accuracy is not None]
    for model in sorted({row.model for row in shown}):
        _model(axes, [row for row in shown if row.model == model], theme)
    if shown:
        _legend(axes, shown, theme, narrow=narrow)
        figure.canvas.draw()
        _labels(axes, shown, theme)
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor=theme.page)
    return out.getvalue()


def _style(axes: "Axes", theme: _Theme, *, narrow: bool) -> None:
    axes.set_facecolor(theme.page)
    axes.set_xscale("log")
    told = "median ms at batch 1 (log scale)"
    if not narrow:
        told = "median latency at batch 1, milliseconds (log scale)"
    axes.set_xlabel(told, color=theme.text, size=12)
    axes.set_ylabel("accuracy on held-out data, %", color=theme.text, size=12)
    axes.grid(visible=True, color=theme.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=theme.text, labelsize=11)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if _shown(value) else "")
    axes.margins(x=0.14, y=0.16)
    for side, spine in axes.spines.items():
        spine.set_color(theme.grid)
        spine.set_visible(side in ("left", "bottom"))


def _shown(value: float) -> bool:
    """Between decades, only 2 and 5 get a number."""
    return f"{value:e}"[0] in "25"


def _model(axes: "Axes", rows: "Sequence[Row]", theme: _Theme) -> None:
    if len({_x(row) for row in rows}) == 1:  # a scale that adapts has no width then
        axes.set_xlim(_x(rows[0]) / 2, _x(rows[0]) * 2)
    front = [row for row in rows if row.pareto]
    axes.plot(
        [_x(row) for row in front], [_y(row) for row in front], color=theme.front, linewidth=1.5
    )
    for row in sorted(rows, key=lambda row: -row.memory_bytes):  # small markers on top
        assert row.accuracy is not None
        colour = theme.front if row.pareto else theme.dominated
        y = _y(row)
        # The interval's ends may differ from the value by a rounding error in the wrong direction.
        below, above = y - row.accuracy.low * 100, row.accuracy.high * 100 - y
        bars = [[max(0.0, below)], [max(0.0, above)]]
        axes.errorbar(_x(row), y, yerr=bars, color=colour, linewidth=1, capsize=3, alpha=0.6)
        axes.scatter(
            _x(row),
            y,
            s=_area(row.memory_bytes, rows),
            facecolor=colour if row.pareto else theme.page,
            edgecolor=colour,
            linewidth=1.8,
            zorder=3,
        )


def _area(memory_bytes: float, rows: "Sequence[Row]") -> float:
    """Marker area in square points: proportional to memory, with a floor that stays visible."""
    largest = max(row.memory_bytes for row in rows) or 1
    return 40 + 560 * memory_bytes / largest


def _labels(axes: "Axes", rows: "Sequence[Row]", theme: _Theme) -> None:
    """Names beside the markers, each at the first free place around its own."""
    from matplotlib.patheffects import withStroke

    taken: list[Any] = []
    several = len({row.model for row in rows}) > 1
    markers = [(axes.transData.transform((_x(r), _y(r))), _radius(r, rows)) for r in rows]
    for (centre, radius), row in zip(markers, rows, strict=True):
        name = f"{row.model}: {row.variant}" if several else row.variant
        text = axes.text(0, 0, name, color=theme.text, size=12, zorder=4)
        text.set_transform(None)  # pixels
        text.set_path_effects([withStroke(linewidth=4, foreground=theme.page)])
        size = text.get_window_extent()
        gap = radius + 6
        middle = centre[1] - size.height / 2
        places = [
            (centre[0] + gap, middle),
            (centre[0] - gap - size.width, middle),
            *(
                (centre[0] + dx, centre[1] + dy)
                for ring in range(6)
                for dx in (4.0, -size.width - 4, -size.width / 2)
                for dy in (gap + ring * size.height, -gap - (ring + 1) * size.height)
            ),
        ]
        text.set_position(places[0])
        for place in places:
            text.set_position(place)
            box = text.get_window_extent().padded(2)
            inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            clear = not any(box.overlaps(other) for other in taken)
            if inside and clear and not any(_hits(box, c, r) for c, r in markers):
                break
        taken.append(text.get_window_extent().padded(2))


def _radius(row: "Row", rows: "Sequence[Row]") -> float:
    """The marker's radius in pixels."""
    return float((_area(row.memory_bytes, rows) / 3.1416) ** 0.5 * DPI / 72)


def _hits(box: Any, centre: Any, radius: float) -> bool:
    """Whether a box and a circle touch."""
    dx = max(box.x0 - centre[0], 0, centre[0] - box.x1)
    dy = max(box.y0 - centre[1], 0, centre[1] - box.y1)
    return bool(dx * dx + dy * dy < radius * radius)


def _legend(axes: "Axes", rows: "Sequence[Row]", theme: _Theme, *, narrow: bool) -> None:
    from matplotlib.lines import Line2D

    largest = max(row.memory_bytes for row in rows)
    entries = [
        Line2D(
            [],
            [],
            color=theme.front,
            marker="o",
            label="Pareto front" if narrow else "on the Pareto front",
        ),
        Line2D([], [], color=theme.dominated, marker="o", mfc=theme.page, ls="", label="dominated"),
    ]
    for share in (0.25, 1.0):
        size = _area(largest * share, rows) ** 0.5
        entries.append(
            Line2D(
                [],
                [],
                color=theme.text,
                marker="o",
                mfc="none",
                ls="",
                markersize=size,
                label=f"{largest * share / 2**20:.0f} MiB{'' if narrow else ' of memory'}",
            )
        )
    axes.legend(
        handles=entries,
        loc="upper center",
        bbox_to_anchor=(0.5, 1.24 if narrow else 1.14),
        ncols=2 if narrow else 4,
        frameon=False,
        labelcolor=theme.text,
        fontsize=11,
    )


def _x(row: "Row") -> float:
    return row.latency_s[1].p50 * 1e3


def _y(row: "Row") -> float:
    assert row.accuracy is not None
    return row.accuracy.value * 100
