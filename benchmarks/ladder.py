"""How much faster and smaller each variant of a model is than its reference.

    python -m benchmarks.ladder cifar10 --data-dir .gearshift [--json]

Latency at batch 1 on one thread, every variant and the reference in turns on the *same* runtime
(`interleaved.py`); accuracy is the manifest's, on test rows that no training or choice saw.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import interleaved, tables
from variants import evaluation, runtimes
from variants.data_folder import DataFolder, open_data_folder
from variants.manifest import Manifest
from variants.profile import host_fingerprint


def measure(folder: DataFolder, model: str) -> dict[str, Any]:
    """One row for each active variant and runtime that takes it."""
    record = folder.registry.model(model)
    manifests = [
        folder.store.manifest(variant.manifest_id)
        for variant in folder.registry.variants(model)
        if variant.state == "active" and variant.manifest_id is not None
    ]
    reference = next(m for m in manifests if m.variant == record.reference)
    assert record.evaluation_digest is not None
    rows = evaluation.load(folder.store.blob_path(record.evaluation_digest))
    inputs = {name: np.array(tensor[:1]) for name, tensor in rows.inputs.items()}
    found = []
    for runtime in runtimes.installed():
        calls = {}
        for manifest in manifests:
            if not any(profile.runtime == runtime for profile in manifest.profiles):
                continue
            session = runtimes.find(runtime).load(
                folder.store.blob_path(manifest.artifact.digest), 1
            )
            calls[manifest.variant] = lambda session=session: session.run(inputs)
        timings = interleaved.compare(calls, reference.variant)
        for manifest in manifests:
            if manifest.variant in timings:
                found.append(_row(manifest, reference, runtime, timings[manifest.variant]))
    return {"model": model, "host": host_fingerprint(), "threads": 1, "batch": 1, "rows": found}


def _row(
    manifest: Manifest, reference: Manifest, runtime: str, timing: interleaved.Timing
) -> dict[str, Any]:
    assert manifest.accuracy is not None and reference.accuracy is not None
    return {
        "variant": manifest.variant,
        "technique": manifest.technique,
        "runtime": runtime,
        "chosen": runtime == manifest.runtime,
        "accuracy": asdict(manifest.accuracy),
        "drop_points": (reference.accuracy.value - manifest.accuracy.value) * 100,
        "size_bytes": manifest.artifact.size_bytes,
        "smaller": reference.artifact.size_bytes / manifest.artifact.size_bytes,
        **asdict(timing),
    }


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    rows = [
        [
            f"`{row['variant']}`",
            row["runtime"],
            f"{row['accuracy']['value']:.2%} ({row['accuracy']['low']:.1%}–"
            f"{row['accuracy']['high']:.1%})",
            f"{row['drop_points']:+.2f}",
            f"{row['p50_s'] * 1e3:.3f}",
            f"{row['faster']:.1f}× ({row['faster_low']:.1f}–{row['faster_high']:.1f})",
            f"{row['size_bytes'] / 2**20:.2f}",
            f"{row['smaller']:.1f}×",
        ]
        for row in result["rows"]
    ]
    head = [
        "variant",
        "runtime",
        "accuracy (95 %)",
        "drop, points",
        "p50 ms",
        "faster (rounds)",
        "MiB",
        "smaller",
    ]
    return tables.markdown(head, rows)


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with open_data_folder(arguments.data_dir) as folder:
        result = measure(folder, arguments.model)
    tables.keep(f"ladder-{arguments.model}", result)
    print(json.dumps(result, indent=1) if arguments.json else table(result))


if __name__ == "__main__":
    main()
