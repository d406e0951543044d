"""The measured ladder of variants: rows for a table and for JSON, and a page with the picture.

rows = report.rows(folder, prices)
report.write(rows, Path("report"))     # report/index.html and report/pareto.png
"""

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compressors import pareto
from compressors.pareto import Point
from variants.cost import Prices, usd_per_million
from variants.data_folder import DataFolder
from variants.manifest import Manifest
from variants.profile import Accuracy, Quantiles

PAGE = "index.html"
PICTURE = "pareto.png"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One active variant as it was measured. `pareto`: no other of its model is both more accurate
    and faster (median latency at batch 1). `throughput_per_s` is that of the best batch size.
    """

    model: str
    variant: str
    runtime: str
    technique: str
    accuracy: Accuracy | None
    latency_s: dict[int, Quantiles]
    throughput_per_s: float
    size_bytes: int
    memory_bytes: int
    load_s: float
    cost_usd_per_million: float
    pareto: bool
    reference: bool

    def as_json(self) -> dict[str, Any]:
        """The row as `gearshift report --json` prints it; batch sizes are strings there."""
        accuracy = self.accuracy
        return {
            "model": self.model,
            "variant": self.variant,
            "runtime": self.runtime,
            "technique": self.technique,
            "accuracy": asdict(accuracy) if accuracy else None,
            "latency_s": {
                str(batch): {"p50": q.p50, "p95": q.p95, "p99": q.p99}
                for batch, q in sorted(self.latency_s.items())
            },
            "throughput_per_s": self.throughput_per_s,
            "size_bytes": self.size_bytes,
            "memory_bytes": self.memory_bytes,
            "load_s": self.load_s,
            "cost_usd_per_million": self.cost_usd_per_million,
            "pareto": self.pareto,
        }


def rows(folder: DataFolder, prices: Prices, model: str | None = None) -> tuple[Row, ...]:
    """Every active, measured variant of one model or of all, the fastest first.

    Raises `NotFound` for an unknown model.
    """
    records = [folder.registry.model(model)] if model else folder.registry.models()
    found: list[Row] = []
    for record in records:
        manifests = [
            folder.store.manifest(variant.manifest_id)
            for variant in folder.registry.variants(record.spec.name)
            if variant.state == "active" and variant.manifest_id is not None
        ]
        found.extend(_rows(manifests, prices, record.reference))
    return tuple(found)


def _rows(manifests: Sequence[Manifest], prices: Prices, reference: str | None) -> list[Row]:
    measured = [m for m in manifests if m.profile is not None]
    placed = [m for m in measured if m.accuracy is not None]
    points = [_point(m) for m in placed]
    best = {m.id for m, on in zip(placed, pareto.front(points), strict=True) if on}
    found = [_row(m, prices, m.id in best, m.variant == reference) for m in measured]
    return sorted(found, key=lambda row: row.latency_s[1].p50)


def _point(manifest: Manifest) -> Point:
    assert manifest.accuracy is not None and manifest.profile is not None
    return Point(accuracy=manifest.accuracy.value, latency_s=manifest.profile.latency_s[1].p50)


def _row(manifest: Manifest, prices: Prices, on_front: bool, reference: bool) -> Row:
    profile = manifest.profile
    assert profile is not None
    return Row(
        model=manifest.model,
        variant=manifest.variant,
        runtime=manifest.runtime,
        technique=manifest.technique,
        accuracy=manifest.accuracy,
        latency_s=dict(profile.latency_s),
        throughput_per_s=profile.throughput_per_s,
        size_bytes=manifest.artifact.size_bytes,
        memory_bytes=profile.memory_bytes,
        load_s=profile.load_s,
        cost_usd_per_million=usd_per_million(
            prices,
            service_s=profile.latency_s[1].p50,
            batch=1,
            threads=profile.threads,
            memory_bytes=profile.memory_bytes,
        ),
        pareto=on_front,
        reference=reference,
    )


def write(found: Sequence[Row], folder: Path) -> tuple[Path, Path]:
    """The page and the picture in `folder`, replacing older ones; returns their paths.

    The page holds its picture and needs nothing else, so it can be sent as one file.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from compressors import figure

    folder.mkdir(parents=True, exist_ok=True)
    picture, page = folder / PICTURE, folder / PAGE
    figure.draw(found, picture, dark=False)
    shades = {
        "light": base64.b64encode(picture.read_bytes()).decode(),
        "dark": base64.b64encode(figure.render(found, dark=True)).decode(),
    }
    environment = Environment(
        loader=PackageLoader("compressors", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html.jinja")
    page.write_text(
        template.render(rows=found, picture=shades, alt=describe(found)), encoding="utf-8"
    )
    return page, picture


def describe(found: Sequence[Row]) -> str:
    """The picture in words, for those who do not see it."""
    told = [
        f"{row.variant} {row.accuracy.value:.1%} at {row.latency_s[1].p50 * 1e3:.2f} ms"
        f" with {row.memory_bytes / 2**20:.0f} MiB"
        f"{'' if row.pareto else ' (dominated)'}"
        for row in found
        if row.accuracy is not None
    ]
    if not told:
        return "No variant has been measured yet."
    return (
        "Scatter plot of accuracy against median latency at batch 1, with memory as marker size. "
        f"From fastest to slowest: {'; '.join(told)}."
    )
