"""Cascades: ask a cheap variant first, and a better one where the first is not sure.

Every number here comes from the selection split; the test rows are never looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from compressors.proportions import paired_difference, wilson
from compressors.publish import ACTOR
from compressors.records import Records
from compressors.scores import Scores
from variants.data_folder import DataFolder
from variants.evidence import Cascade
from variants.manifest import Manifest

STEPS = 100
"""How many shares of escalation are tried, from all rows down to one in so many."""
TRUST = 0.95
"""How sure the promise is: at most one calibration in twenty may break it."""


def threshold(first: Scores, then: Scores, max_drop: float) -> float | None:
    """The lowest confidence at which `first` may answer alone; None where there is none.

    Answers of `first` at or above it cost less than `max_drop` (from 0 to 1) of accuracy against
    `then`, with a chance of `TRUST`. The shares of escalation are tried in a fixed order, from the
    safest down, each by the upper end of Newcombe's paired interval, until the first that fails;
    so trying many does not spoil the promise. Source: fixed sequence testing in A. N.
    Angelopoulos et al., "Learn then test" (2021), with Newcombe (1998), method 10, as the test.
    """
    confidence, quick, good = first.confidence, first.right, then.right
    found = None
    for limit in np.quantile(confidence, np.arange(STEPS - 1, 0, -1) / STEPS):
        if _most_lost(np.where(confidence >= limit, quick, good), good) > max_drop:
            break
        found = float(limit)
    return found


def _most_lost(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    """Upper bound of how much less often `ours` are right than `theirs`, if `TRUST` is to hold."""
    return paired_difference(
        int((ours & theirs).sum()),
        int((theirs & ~ours).sum()),
        int((ours & ~theirs).sum()),
        int((~ours & ~theirs).sum()),
        confidence=2 * TRUST - 1,
    ).high


def calibrate(
    first: Manifest, then: Manifest, scores: Mapping[str, Scores], max_drop_points: float
) -> Cascade | None:
    """The cascade from one variant to another; None where it does not pay or does not hold.

    It pays where `then` is slower and more accurate on the selection split, and the expected
    latency is below that of `then` alone. `scores` are by variant.
    """
    if first.profile is None or then.profile is None or first.profile.host != then.profile.host:
        return None
    quick, slow = scores[first.variant], scores[then.variant]
    first_s, then_s = first.profile.latency_s[1].p50, then.profile.latency_s[1].p50
    better = int(slow.right.sum()) > int(quick.right.sum())
    if first_s >= then_s or not better or not quick.same_rows(slow):
        return None
    limit = threshold(quick, slow, max_drop_points / 100)
    if limit is None:
        return None
    alone = quick.confidence >= limit
    n = len(alone)
    escalation = wilson(int((~alone).sum()), n)
    expected_s = first_s + escalation.value * then_s
    if expected_s >= then_s:
        return None
    return Cascade(
        first=first.variant,
        then=then.variant,
        threshold=limit,
        max_drop_points=max_drop_points,
        n=n,
        escalation=escalation,
        accuracy=wilson(int(np.where(alone, quick.right, slow.right).sum()), n),
        latency_s=expected_s,
    )


def all_pairs(
    manifests: Sequence[Manifest], scores: Mapping[str, Scores], max_drop_points: float
) -> dict[str, tuple[Cascade, ...]]:
    """For each variant, the cascades that begin with it, the quickest first."""
    known = [manifest for manifest in manifests if manifest.variant in scores]
    found = {}
    for first in known:
        pairs = (calibrate(first, then, scores, max_drop_points) for then in known)
        held = [cascade for cascade in pairs if cascade is not None]
        found[first.variant] = tuple(sorted(held, key=lambda cascade: cascade.latency_s))
    return found


def renew(
    folder: DataFolder, records: Records, model: str, max_drop_points: float
) -> dict[str, Manifest]:
    """Write the cascades among a model's active variants into the manifests they begin with.

    Only manifests that change are written, and gateways that serve them are told. Returns every
    active, built variant's manifest.
    """
    manifests = [
        folder.store.manifest(variant.manifest_id)
        for variant in folder.registry.variants(model)
        if variant.state == "active" and variant.manifest_id is not None
    ]
    built = {m.variant: m for m in manifests if m.build_key is not None}
    scores = {
        name: one
        for name, manifest in built.items()
        if manifest.build_key and (one := records.scores(manifest.build_key, "selection"))
    }
    found = all_pairs(list(built.values()), scores, max_drop_points)
    renewed = {
        name: replace(built[name], cascades=cascades)
        for name, cascades in found.items()
        if built[name].cascades != cascades
    }
    for manifest in renewed.values():
        folder.store.put_manifest(manifest)
    if renewed:
        folder.registry.manifests_renewed(model, renewed, actor=ACTOR)
    return built | renewed
