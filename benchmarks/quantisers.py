"""int8 of the same reference by Gearshift and by other quantisers with their defaults.

    python -m benchmarks.quantisers examples/cifar10/plan.toml --data-dir .gearshift [--json]

Everybody gets the same ONNX file and the same calibration rows. Accuracy is that of the test rows
on ONNX Runtime and on OpenVINO; latency is at batch 1 on one thread, all in turns. Intel Neural
Compressor runs in an environment of its own, which is made under `--environments`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import interleaved, tables
from compressors import plan as plans
from compressors import source as sources
from compressors.source import Source
from variants import measure as measuring
from variants import runtimes
from variants.data_folder import DataFolder, open_data_folder
from variants.profile import Accuracy, host_fingerprint

PEERS = Path(__file__).parent / "peers"
BATCH = 32


def measure(
    folder: DataFolder, plan: plans.Plan, ours: tuple[str, ...], environments: Path
) -> dict[str, Any]:
    """One row for each quantiser and runtime."""
    source = sources.load(plan)
    paths = {
        name: folder.store.blob_path(folder.registry.variant(plan.model.name, name).artifact_digest)
        for name in (plan.reference.name, *ours)
    }
    failures = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, quantise in {
            "ONNX Runtime, default": _onnxruntime,
            "NNCF, default": _nncf,
            "Intel Neural Compressor, default": _inc,
        }.items():
            target = Path(scratch) / f"{len(paths)}.onnx"
            try:
                quantise(paths[plan.reference.name], target, source, environments)
                paths[name] = target
            except Exception as error:
                failures[name] = _why(error)
        rows, refused = _rows(paths, source, plan.reference.name)
    return {
        "model": plan.model.name,
        "host": host_fingerprint(),
        "rows": rows,
        "failures": {**failures, **refused},
    }


def _rows(
    paths: dict[str, Path], source: Source, reference: str
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    test = source.data.test
    one = {name: np.array(tensor[:1]) for name, tensor in test.inputs.items()}
    found, refused = [], {}
    for runtime in runtimes.installed():
        sessions = {}
        for name, path in paths.items():
            try:
                sessions[name] = runtimes.find(runtime).load(path, 1)
                sessions[name].run(one)
            except Exception as error:
                sessions.pop(name, None)
                refused[f"{name} on {runtime}"] = _why(error)
        calls = {n: lambda session=session: session.run(one) for n, session in sessions.items()}
        timings = interleaved.compare(calls, reference)
        for name, session in sessions.items():
            answers = measuring.scores(session, test, lambda _: None).argmax(1)
            accuracy = Accuracy.of(int((answers == test.labels).sum()), len(test.labels))
            found.append(
                {
                    "quantiser": name,
                    "runtime": runtime,
                    "accuracy": asdict(accuracy),
                    "size_bytes": _size_bytes(paths[name]),
                    **asdict(timings[name]),
                }
            )
    return found, refused


def _size_bytes(path: Path) -> int:
    """The file, with the weights that some keep beside it under its name."""
    return sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))


def _why(error: Exception) -> str:
    """Its last words: runtimes begin with where in their own source it happened."""
    return [line for line in str(error).splitlines() if line.strip()][-1]


def _onnxruntime(path: Path, target: Path, source: Source, environments: Path) -> None:
    from onnxruntime.quantization import quantize_static

    del environments
    quantize_static(str(path), str(target), _Reader(source))


class _Reader:
    """Calibration batches as ONNX Runtime asks for them."""

    def __init__(self, source: Source) -> None:
        self._batches = iter(_batches(source))

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, or None at the end."""
        return next(self._batches, None)


def _batches(source: Source) -> list[dict[str, Any]]:
    rows = source.data.calibration
    count = min(len(tensor) for tensor in rows.values())
    return [
        {name: tensor[start : start + BATCH] for name, tensor in rows.items()}
        for start in range(0, count, BATCH)
    ]


def _nncf(path: Path, target: Path, source: Source, environments: Path) -> None:
    import nncf
    import onnx

    del environments
    onnx.save(nncf.quantize(onnx.load(path), nncf.Dataset(_batches(source))), target)


def _inc(path: Path, target: Path, source: Source, environments: Path) -> None:
    python = environments / "inc" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", environments / "inc"], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", PEERS / "inc.txt"], check=True)
    rows = target.with_suffix(".npz")
    np.savez(rows, **source.data.calibration)
    done = subprocess.run(
        [python, PEERS / "inc.py", path, rows, target],
        check=False,
        capture_output=True,
        text=True,
    )
    if not target.exists():
        raise RuntimeError(done.stderr.strip().splitlines()[-1])


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    rows = [
        [
            row["quantiser"],
            row["runtime"],
            f"{row['accuracy']['value']:.2%} ({row['accuracy']['low']:.1%}–"
            f"{row['accuracy']['high']:.1%})",
            f"{row['p50_s'] * 1e3:.3f}",
            f"{row['faster']:.2f}× ({row['faster_low']:.2f}–{row['faster_high']:.2f})",
            f"{row['size_bytes'] / 2**20:.2f}" if row["size_bytes"] else "–",
        ]
        for row in result["rows"]
    ]
    head = ["quantiser", "runtime", "accuracy (95 %)", "p50 ms", "faster than fp32", "MiB"]
    told = "".join(f"\n- {name}: {why}" for name, why in result["failures"].items())
    return tables.markdown(head, rows) + (f"\nDid not run:{told}\n" if told else "")


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--ours", nargs="+", default=["int8"])
    parser.add_argument("--environments", type=Path, default=Path(".gearshift-peers"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    plan = plans.load(arguments.plan)
    with open_data_folder(arguments.data_dir) as folder:
        result = measure(folder, plan, tuple(arguments.ours), arguments.environments.absolute())
    tables.keep(f"quantisers-{plan.model.name}", result)
    print(json.dumps(result, indent=1) if arguments.json else table(result))


if __name__ == "__main__":
    main()
