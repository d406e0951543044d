"""What nothing refers to any more is swept, once it has been so old for a grace time.

A blob is needed while a variant that is not retired, a model's evaluation set or its tokenizer
refers to it; a manifest while any variant does. The grace covers what is uploaded or built and not
registered yet.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from variants.data_folder import DataFolder
from variants.registry import Registry
from variants.spec import TextPreprocess
from variants.store import Stored


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
        for variant in registry.variants(model.spec.name):
            manifests.add(variant.manifest_id or "")
            if variant.state != "retired":
                blobs.add(variant.artifact_digest)
    return Needed(blobs=frozenset(blobs), manifests=frozenset(manifests))


def unneeded(data: DataFolder, *, grace_s: float) -> Iterator[Stored]:
    """What may be swept: nothing refers to it, and it is older than the grace."""
    keep, now = needed(data.registry), time.time()
    for file in data.store.files():
        if not keep.keeps(file) and now - file.written_at > grace_s:
            yield file


def sweep(data: DataFolder, *, grace_s: float) -> tuple[Stored, ...]:
    """Remove what may be swept; returns what it was.

    A blob that is registered at this very moment is kept, or its variant fails for want of it.
    """
    old = tuple(unneeded(data, grace_s=grace_s))
    if not old:
        return ()
    keep = needed(data.registry)  # once more: what was referred to while the store was walked
    swept = tuple(file for file in old if not keep.keeps(file))
    for file in swept:
        data.store.remove(file)
    return swept
