"""What nothing has referred to for a grace time is swept.

A blob is needed while a variant that is not retired, a model's evaluation set or its tokenizer
refers to it, and for the grace after that; a manifest while any variant refers to it. What nothing
ever referred to has the grace from when it was written: it may be registered yet.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from variants.data_folder import DataFolder
from variants.lifecycle import STATES
from variants.registry import Registry
from variants.spec import TextPreprocess
from variants.store import Stored

RECORDED = 500
"""Files that one line of the audit names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Needed:
    """Digests of blobs and ids of manifests that something refers to."""

    blobs: frozenset[str]
    manifests: frozenset[str]

    def keeps(self, file: Stored) -> bool:
        """Whether this file is one of them."""
        return file.name in (self.blobs if file.kind == "blob" else self.manifests)


def needed(registry: Registry) -> Needed:
    """What the registry refers to now."""
    blobs, manifests = set[str](), set[str]()
    for model in registry.models():
        blobs.add(model.evaluation_digest or "")
        if isinstance(model.spec.preprocess, TextPreprocess):
            blobs.add(model.spec.preprocess.tokenizer)
    for variant in registry.unsettled(STATES):
        manifests.add(variant.manifest_id or "")
        if variant.state != "retired":
            blobs.add(variant.artifact_digest)
    return Needed(blobs=frozenset(blobs), manifests=frozenset(manifests))


def let_go_lately(registry: Registry, grace_s: float) -> frozenset[str]:
    """Digests of blobs that something referred to within the grace; read `needed` before it."""
    return registry.let_go_since(datetime.now(UTC) - timedelta(seconds=grace_s))


def unneeded(data: DataFolder, *, grace_s: float) -> Iterator[Stored]:
    """What may be swept: nothing has referred to it for the grace, and it is older than that."""
    keep = needed(data.registry)
    lately, now = let_go_lately(data.registry, grace_s), time.time()
    for file in data.store.files():
        old = now - file.written_at > grace_s and file.name not in lately
        if old and not keep.keeps(file):
            yield file


def sweep(data: DataFolder, *, grace_s: float, actor: str) -> tuple[Stored, ...]:
    """Remove what may be swept, and record it; returns what it was.

    Each file is looked at again right before: it may have been registered or uploaded again since
    the store was walked. A blob that is registered at this very moment is kept, or its variant
    fails for want of it. The record comes last, for removing makes room for it on a full disk.
    """
    swept = tuple(
        file
        for file in tuple(unneeded(data, grace_s=grace_s))
        if not needed(data.registry).keeps(file) and data.store.remove(file)
    )
    for first in range(0, len(swept), RECORDED):
        files = [f"{file.kind} {file.name}" for file in swept[first : first + RECORDED]]
        data.audit.add(actor=actor, action="store.sweep", evidence={"files": files})
    return swept
