"""A model's variants in a data folder of their own, profiled here and now.

Profiles in the folder that is given may come from another host or a busier hour.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from app.access import SCOPES
from app.keys import open_keys
from benchmarks.routing import data_folder
from benchmarks.routing.ladder import Ladder
from variants import evaluation as evaluations
from variants import trial
from variants.data_folder import DataFolder, open_data_folder
from variants.errors import Invalid
from variants.evaluation import EvaluationSet
from variants.manifest import Manifest
from variants.measure import Effort
from variants.spec import ModelSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A data folder with one model, a key to it, and held-out rows to ask with."""

    root: Path
    key: str
    spec: ModelSpec
    rows: EvaluationSet
    ladder: Ladder


def renewed(
    source: Path, model: str | None, root: Path, *, effort: Effort, rows: int, asked_rows: int
) -> Served:
    """The active variants of a model in `source` (its only one, if not named), anew in `root`.

    Accuracy is as it was measured; questions are the first `rows` of the model's stored rows.
    Raises `Invalid` where there is no such model, no stored rows, fewer than two variants, or no
    measured run of `asked_rows`.
    """
    with open_data_folder(source) as given, open_data_folder(root) as made:
        names = [record.spec.name for record in given.registry.models()]
        chosen = model or (names[0] if len(names) == 1 else None)
        if chosen is None or chosen not in names:
            raise Invalid(f"{source}: name one of its models: {', '.join(names)}", field="model")
        record = given.registry.model(chosen)
        if record.evaluation_digest is None:
            raise Invalid(f"{source}: model {chosen!r} has no stored rows", field="model")
        held_out = evaluations.load(given.store.blob_path(record.evaluation_digest)).first(rows)
        manifests = [
            given.store.manifest(variant.manifest_id)
            for variant in given.registry.variants(chosen)
            if variant.state == "active" and variant.manifest_id is not None
        ]
        if len(manifests) < 2:
            raise Invalid(f"{source}: model {chosen!r} has fewer than two active variants")
        made.registry.put_model(record.spec, None, actor="live")
        for manifest in manifests:
            path = given.store.blob_path(manifest.artifact.digest)
            _publish(made, _profiled(path, manifest, record.spec, effort), path)
        made.registry.set_reference(chosen, record.reference or manifests[0].variant, actor="live")
        key = open_keys(made.keys, made.root, required=True).create(
            "live", frozenset(SCOPES), actor="live"
        )
    (ladder,) = data_folder.ladders(root)
    measured = ladder.best.service
    if asked_rows not in measured:
        seen = ", ".join(map(str, sorted(measured)))
        raise Invalid(f"rows is {asked_rows}; runs were measured of {seen}", field="rows")
    return Served(root=root, key=key, spec=record.spec, rows=held_out, ladder=ladder)


def _profiled(path: Path, manifest: Manifest, spec: ModelSpec, effort: Effort) -> Manifest:
    result = trial.run(
        trial.Request(
            path=path, spec=spec, runtimes=(manifest.runtime,), evaluations={}, effort=effort
        )
    )
    return replace(manifest, profiles=result.profiles, cascades=())


def _publish(made: DataFolder, manifest: Manifest, path: Path) -> None:
    made.store.put_file(path)
    made.store.put_manifest(manifest)
    who = {"actor": "benchmark", "reason": "profiled anew"}
    made.registry.add_variant(
        model=manifest.model,
        name=manifest.variant,
        artifact_digest=manifest.artifact.digest,
        **who,
    )
    for state in ("verified", "profiled", "active"):
        made.registry.move(manifest.model, manifest.variant, state, manifest_id=manifest.id, **who)
