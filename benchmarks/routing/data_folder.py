"""Ladders of a Gearshift data folder: what its builds have measured on their host."""

from pathlib import Path

from benchmarks.routing.ladder import Ladder, candidate, ladder_of
from router.candidate import Candidate
from variants.data_folder import FILE, DataFolder, open_data_folder
from variants.errors import Invalid


def ladders(root: Path) -> list[Ladder]:
    """One for each model with two measured variants. Raises `Invalid` where there is none."""
    if not (root / FILE).exists():
        raise Invalid(f"{root}: not a Gearshift data folder (it has no {FILE})")
    with open_data_folder(root) as folder:
        measured = {
            record.spec.name: _measured(folder, record.spec.name)
            for record in folder.registry.models()
        }
    found = [
        ladder_of(name, candidates)
        for name, candidates in sorted(measured.items())
        if len(candidates) >= 2
    ]
    if not found:
        raise Invalid(f"{root}: no model with at least two active, measured variants")
    return found


def _measured(folder: DataFolder, model: str) -> list[Candidate]:
    found = []
    for variant in folder.registry.variants(model):
        if variant.state != "active" or variant.manifest_id is None:
            continue
        manifest = folder.store.manifest(variant.manifest_id)
        if manifest.accuracy is not None and manifest.profile is not None:
            profile = manifest.profile
            found.append(
                candidate(
                    manifest.variant, manifest.accuracy, profile.latency_s, load_s=profile.load_s
                )
            )
    return found
