"""Brings a built variant into the registry, from wherever an interrupted build left it."""

from variants.data_folder import DataFolder
from variants.errors import NotFound
from variants.lifecycle import State
from variants.manifest import Manifest
from variants.registry import VariantRecord

ACTOR = "build"
_PATH: tuple[tuple[State, State, str], ...] = (
    ("registered", "verified", "the file was checked and loaded in a throw-away process"),
    ("verified", "profiled", "accuracy and latency were measured on this host"),
    ("profiled", "active", "the gates let it pass"),
)


def publish(folder: DataFolder, manifest: Manifest, *, is_reference: bool) -> bool:
    """Make the variant active, step by step; returns whether anything was left to do.

    A variant that an admin has since taken out of service stays as it is.
    """
    registry = folder.registry
    record = _found(folder, manifest)
    fresh = False
    if record is None:
        registry.add_variant(
            model=manifest.model,
            name=manifest.variant,
            artifact_digest=manifest.artifact.digest,
            actor=ACTOR,
            reason=f"built as {manifest.technique}",
        )
        fresh = True
    state = "registered" if record is None else record.state
    for old, new, reason in _PATH:
        if state == old:
            registry.move(
                manifest.model,
                manifest.variant,
                new,
                actor=ACTOR,
                reason=reason,
                manifest_id=manifest.id,
            )
            state, fresh = new, True
    if is_reference and registry.model(manifest.model).reference is None and state == "active":
        registry.set_reference(manifest.model, manifest.variant, actor=ACTOR)
    return fresh


def _found(folder: DataFolder, manifest: Manifest) -> VariantRecord | None:
    try:
        return folder.registry.variant(manifest.model, manifest.variant)
    except NotFound:
        return None
