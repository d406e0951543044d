"""A ladder of real variants whose outputs tell which of them answered.

    gears      iterations   what it is for
    best       6            the reference: most accurate, slowest of the useful ones
    mid        2
    fast       none         least accurate
    glacial    (fake)       1 s a batch, for pins only: a latency budget must keep requests off it

Each has weights of its own, so `outputs(name, x)` is known. Built once a session, copied by
`ladder.copy(...)`.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests import models, world
from variants.cost import Prices
from variants.data_folder import DataFolder, open_data_folder
from variants.evidence import Evaluation
from variants.lifecycle import State
from variants.manifest import Artifact, Manifest, manifest_id
from variants.profile import BATCHES, Accuracy, Profile, Quantiles

MODEL = "gears"
SEEDS = {"best": 0, "mid": 65, "fast": 13}
ITERATIONS = {"best": 6, "mid": 2}
GLACIAL_S = 1.0
GLACIAL_SCALE = 0.5
PRICES = Prices(core_hour_usd=40.0, gib_hour_usd=5.0)
ENV = {
    "GEARSHIFT_PROFILE_S": "0.01",
    "GEARSHIFT_MIN_AGREEMENT": "0",
    "GEARSHIFT_PRICES__CORE_HOUR_USD": str(PRICES.core_hour_usd),
    "GEARSHIFT_PRICES__GIB_HOUR_USD": str(PRICES.gib_hour_usd),
}
"""Quick trials of whatever answers, and prices at which a header's three decimals tell the
variants' costs apart."""


def seed_of(variant: str) -> int:
    """The weights of a variant; `extra-7` and the like have the seed 1007."""
    return SEEDS[variant] if variant in SEEDS else 1000 + int(variant.removeprefix("extra-"))


def outputs(variant: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What this variant answers for `x [rows, 4]`."""
    if variant == "glacial":
        sums = x.sum(axis=1, keepdims=True, dtype=np.float32) * np.float32(GLACIAL_SCALE)
        return np.repeat(sums, models.CLASSES, axis=1)
    return models.tiny_logits(x, seed_of(variant))


def onnx(folder: Path, variant: str) -> Path:
    """The variant's artifact."""
    path, seed = folder / f"{variant}.onnx", seed_of(variant)
    if variant in ITERATIONS:
        return models.slow_onnx(path, iterations=ITERATIONS[variant], seed=seed)
    return models.tiny_onnx(path, seed=seed)


def publish_fake(
    data: DataFolder,
    name: str,
    *,
    service_s: float = 0.001,
    model: str = MODEL,
    memory_bytes: int = 1 << 20,
    promised_s: float | None = None,
    state: State = "active",
    evaluation: Evaluation | None = None,
    sizes: Sequence[int] = BATCHES,
    **plan: Any,
) -> Manifest:
    """A variant of the fake runtime with made-up measurements, past all trials.

    Of the measured `sizes` each takes as long as the others, so the largest pays best.
    """
    content = {"outputs": {"logits": [models.CLASSES]}, "service_s": service_s, **plan}
    service_s = service_s if promised_s is None else promised_s
    digest = data.store.put_bytes(json.dumps({**content, "name": name}).encode())
    artifact = Artifact(digest=digest, size_bytes=data.store.blob_size(digest), format="onnx")
    quantiles = Quantiles(p50=service_s, p95=service_s * 1.1, p99=service_s * 1.2)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = Manifest(
        id=manifest_id(
            model=model, variant=name, parent=None, recipe=(), tools={}, artifact=artifact
        ),
        model=model,
        variant=name,
        parent=None,
        recipe=(),
        tools={},
        artifact=artifact,
        runtime="fake",
        accuracy=Accuracy.of(220, 400),
        evaluation=evaluation,
        profiles=(
            Profile(
                runtime="fake",
                runtime_version="1",
                device="cpu",
                host="test",
                threads=1,
                latency_s=dict.fromkeys(sizes, quantiles),
                throughput_per_s=1 / service_s,
                memory_bytes=memory_bytes,
                load_s=0.01,
                measured_at=now,
            ),
        ),
        build_key=None,
        created_at=now,
    )
    data.store.put_manifest(manifest)
    data.registry.add_variant(
        model=model, name=name, artifact_digest=digest, actor="test", reason="test"
    )
    for step in ("verified", "profiled", state):
        data.registry.move(model, name, step, actor="test", reason="test", manifest_id=manifest.id)
    return manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Ladder:
    """A data folder with the ladder in it, and a key with every scope."""

    root: Path
    key: str

    def copy(self, root: Path) -> "Ladder":
        """The same in another folder, to be changed."""
        shutil.copytree(self.root, root)
        return Ladder(root=root, key=self.key)

    def manifests(self) -> dict[str, Manifest]:
        """The manifests of all variants that were profiled, by name."""
        with open_data_folder(self.root) as data:
            return {
                v.name: data.store.manifest(v.manifest_id)
                for v in data.registry.variants(MODEL)
                if v.manifest_id is not None
            }


def build(folder: Path) -> Ladder:
    """Build the ladder under `folder`."""
    root = folder / "data"
    spec = replace(models.tiny_spec(MODEL), labels=())
    with open_data_folder(root) as data:
        world.publish(
            data,
            spec,
            models.tiny_evaluation(400, wrong=20),
            {name: onnx(folder, name) for name in SEEDS},
        )
        publish_fake(data, "glacial", service_s=GLACIAL_S, scale=GLACIAL_SCALE)
        return Ladder(root=root, key=world.make_key(data))
