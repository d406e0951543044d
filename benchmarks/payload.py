"""JSON and raw tensors by the size of a body: 64 KiB to 8 MiB of float32, and a picture.

    python -m benchmarks.payload [--seconds 2] [--rounds 3] [--json]

The model answers with the first number (`models.echo`), or with the mean of each channel of
3×224×224, so what is measured is the way of the body: socket, parser, decoding, checks, and the
hand-over to the worker. JSON and bytes are taken in turns; numbers have four decimals.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import load, models, tables
from benchmarks.peers.contestants import ours
from tests import world
from variants.data_folder import open_data_folder
from variants.profile import host_fingerprint

SIZES_BYTES = [1 << power for power in (16, 18, 20, 22, 23)]
CONNECTIONS = 4


def measure(seconds: float, rounds: int) -> dict[str, Any]:
    """One row for each size, with the ratio of the medians of both forms."""
    contestants = [models.echo(size // 4) for size in SIZES_BYTES]
    contestants.append(models.picture())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generator = load.Generator.compile(folder)
        with open_data_folder(folder / "data") as data:
            for model in contestants:
                world.publish(data, model.spec, None, {"fp32": model.save(folder)})
            key = world.make_key(data, "infer")
        with world.gateway(folder / "data", key) as gateway:
            rows = [
                _row(
                    model,
                    generator=generator,
                    port=gateway.port,
                    key=key,
                    seconds=seconds,
                    rounds=rounds,
                )
                for model in contestants
            ]
    return {
        "host": host_fingerprint(),
        "load_average": os.getloadavg(),
        "connections": CONNECTIONS,
        "rows": sorted(rows, key=lambda row: row["tensor_bytes"]),
    }


def _row(
    model: models.Model,
    *,
    generator: load.Generator,
    port: int,
    key: str,
    seconds: float,
    rounds: int,
) -> dict[str, Any]:
    values = model.row()
    seconds *= 1 + values.nbytes / (2 << 20)  # large ones are few
    requests = {
        "json": ours(key)(model.name, values, False),
        "binary": ours(key)(model.name, values, True),
    }
    found: dict[str, list[load.Load]] = {form: [] for form in requests}
    for _ in range(rounds):
        for form, request in requests.items():
            done = generator.run(port, request, connections=CONNECTIONS, seconds=seconds)
            if done.refused or done.broken:
                raise SystemExit(f"{model.name}, {form}: {done}")
            found[form].append(done)
    row: dict[str, Any] = {"model": model.name, "tensor_bytes": values.nbytes}
    for form, loads in found.items():
        row[form] = {
            "body_bytes": len(requests[form]),
            "requests_per_s": statistics.median(done.requests_per_s for done in loads),
            "p50_ms": statistics.median(done.p50_ms for done in loads),
            "p99_ms": statistics.median(done.p99_ms for done in loads),
        }
    row["ratio"] = row["binary"]["requests_per_s"] / row["json"]["requests_per_s"]
    return row


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    head = ["tensor", "JSON requests/s", "p50 ms", "raw requests/s", "p50 ms", "raw to JSON"]
    rows = []
    for row in result["rows"]:
        name = "3×224×224" if row["model"] == "picture" else f"{row['tensor_bytes'] >> 10:,} KiB"
        cells = [name]
        for form in ("json", "binary"):
            cells += [f"{row[form]['requests_per_s']:,.0f}", f"{row[form]['p50_ms']:.1f}"]
        rows.append([*cells, f"{row['ratio']:.1f}×"])
    return tables.markdown(head, rows)


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description="JSON and raw tensors by the size of a body.")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments.seconds, arguments.rounds)
    tables.keep("payload", result)
    print(json.dumps(result, indent=1) if arguments.json else table(result))


if __name__ == "__main__":
    main()
