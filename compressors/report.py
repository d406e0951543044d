"""The measured ladder of variants: rows for tables and for JSON, and what else a report tells.

models = report.read(folder, prices)
page.write(models, Path("report"))     # report/index.html, report/<model>.html, report/pareto.png
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressors import evaluate, pareto
from compressors.pareto import Point
from compressors.proportions import paired_difference
from compressors.records import BuildRecord, Records
from compressors.scores import Scores
from variants.cost import Prices, usd_per_million
from variants.data_folder import DataFolder
from variants.evidence import Cascade, Evaluation, Interval, LayerSensitivity
from variants.manifest import Manifest, Step
from variants.profile import Accuracy, Profile, Quantiles
from variants.spec import ModelSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One active variant as it was measured. `pareto`: no other of its model is both more accurate
    and faster (median latency at batch 1). `throughput_per_s` is that of the best batch size.
    `parents` are the variants that it was made from, the nearest first.
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
    parents: tuple[str, ...] = ()
    recipe: tuple[Step, ...] = ()
    profiles: tuple[Profile, ...] = ()
    build_s: float | None = None
    evaluation: Evaluation | None = None
    sensitivity: tuple[LayerSensitivity, ...] = ()
    cascades: tuple[Cascade, ...] = ()

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
            "parents": list(self.parents),
            "recipe": [{"technique": s.technique, "config": dict(s.config)} for s in self.recipe],
            "build_s": self.build_s,
            "runtimes": {
                profile.runtime: {str(b): q.p50 for b, q in sorted(profile.latency_s.items())}
                for profile in self.profiles
            },
            "evaluation": asdict(self.evaluation) if self.evaluation else None,
            "sensitivity": [asdict(layer) for layer in self.sensitivity],
            "cascades": [asdict(cascade) for cascade in self.cascades],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """A variant's answers against the reference's on the test rows.

    `counts` are rows by the reference's answer (first axis) and the variant's, `[classes]²`.
    """

    variant: str
    counts: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedCascade:
    """A cascade with what it does on the test rows, which nothing was chosen by.

    `difference` is its accuracy there less that of the better variant alone.
    """

    cascade: Cascade
    speed_up: float
    cost_usd_per_million: float
    escalation: float | None
    difference: Interval | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelReport:
    """Everything that a report tells about one model.

    `left_out` are builds that failed or that the gates refuse.
    """

    spec: ModelSpec
    rows: tuple[Row, ...]
    confusions: tuple[Confusion, ...] = field(default=())
    cascades: tuple[CheckedCascade, ...] = ()
    left_out: tuple[BuildRecord, ...] = ()


def read(folder: DataFolder, prices: Prices, model: str | None = None) -> tuple[ModelReport, ...]:
    """The report of one model or of all, by name. Raises `NotFound` for an unknown model."""
    names = [model] if model else [record.spec.name for record in folder.registry.models()]
    return tuple(_read(folder, prices, name) for name in names)


def _read(folder: DataFolder, prices: Prices, model: str) -> ModelReport:
    record = folder.registry.model(model)
    found = rows(folder, prices, model)
    records = Records(folder.root)
    scores: dict[str, Scores] = {}
    for variant in folder.registry.variants(model):
        if variant.state == "active" and variant.manifest_id is not None:
            key = folder.store.manifest(variant.manifest_id).build_key
            if key is not None and (one := records.scores(key, "test")) is not None:
                scores[variant.name] = one
    shown = {row.variant: row for row in found}
    reference = scores.get(record.reference or "")
    return ModelReport(
        spec=record.spec,
        rows=found,
        confusions=tuple(
            Confusion(variant=name, counts=evaluate.confusion(scores[name], reference))
            for name in shown
            if name != record.reference
            and name in scores
            and reference is not None
            and scores[name].same_rows(reference)
        ),
        cascades=_checked(shown, scores),
        left_out=tuple(
            build
            for name, build in records.latest(model).items()
            if build.reason and name not in shown
        ),
    )


def _checked(shown: Mapping[str, Row], scores: Mapping[str, Scores]) -> tuple[CheckedCascade, ...]:
    found = []
    for row in shown.values():
        for cascade in row.cascades:
            if (then := shown.get(cascade.then)) is None:
                continue
            escalation, difference = None, None
            first, better = scores.get(cascade.first), scores.get(cascade.then)
            if first is not None and better is not None and first.same_rows(better):
                alone = first.confidence >= cascade.threshold
                escalation = float(1 - alone.mean())
                ours, theirs = np.where(alone, first.right, better.right), better.right
                difference = paired_difference(
                    int((ours & theirs).sum()),
                    int((ours & ~theirs).sum()),
                    int((~ours & theirs).sum()),
                    int((~ours & ~theirs).sum()),
                )
            share = cascade.escalation.value
            found.append(
                CheckedCascade(
                    cascade=cascade,
                    speed_up=then.latency_s[1].p50 / cascade.latency_s,
                    cost_usd_per_million=row.cost_usd_per_million
                    + share * then.cost_usd_per_million,
                    escalation=escalation,
                    difference=difference,
                )
            )
    return tuple(sorted(found, key=lambda one: (one.cascade.then, one.cascade.latency_s)))


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
    names = {m.id: m for m in manifests}
    best = {m.id for m, on in zip(placed, pareto.front(points), strict=True) if on}
    found = [
        _row(
            m,
            prices,
            on_front=m.id in best,
            reference=m.variant == reference,
            parents=_parents(m, names),
        )
        for m in measured
    ]
    return sorted(found, key=lambda row: row.latency_s[1].p50)


def _parents(manifest: Manifest, known: Mapping[str, Manifest]) -> tuple[str, ...]:
    """Names of the ancestors, as far as they are served themselves."""
    found: list[str] = []
    at = manifest
    while at.parent is not None and at.parent in known:
        at = known[at.parent]
        found.append(at.variant)
    return tuple(found)


def _point(manifest: Manifest) -> Point:
    assert manifest.accuracy is not None and manifest.profile is not None
    return Point(accuracy=manifest.accuracy.value, latency_s=manifest.profile.latency_s[1].p50)


def _row(
    manifest: Manifest,
    prices: Prices,
    *,
    on_front: bool,
    reference: bool,
    parents: tuple[str, ...],
) -> Row:
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
        parents=parents,
        recipe=manifest.recipe,
        profiles=manifest.profiles,
        build_s=manifest.build_s,
        evaluation=manifest.evaluation,
        sensitivity=manifest.sensitivity,
        cascades=manifest.cascades,
    )


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
