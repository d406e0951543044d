"""`gearshift demo`: build a ladder, serve it, and show how budgets choose among its variants.

Everything goes through the product's own doors: `gearshift build`, `gearshift report`,
`gearshift serve`, and HTTP. The budgets are cut to what this machine measured, so that they tell
its variants apart on any host.
"""

import contextlib
import io
import json
import math
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from app import settings
from app.access import SCOPES
from app.keys import open_keys
from variants import evaluation
from variants.errors import GearshiftError

PLAN = Path("examples/fashion_mnist/plan.toml")
FOLDER = Path(".gearshift")
READY_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One real test picture with its label's number."""

    png: bytes
    label: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """One request: what it wants in words, and its headers."""

    words: str
    headers: dict[str, str]


def run(data_dir: Path, *, port: int, keep_serving: bool) -> None:
    """Build, report, serve and ask. Raises `GearshiftError` where a step fails."""
    console = Console(highlight=False)
    if not PLAN.is_file():
        raise GearshiftError(f"{PLAN} is not here: run the demo in a clone of the repository")
    start = time.monotonic()
    _gearshift(data_dir, "build", str(PLAN))
    _gearshift(data_dir, "report", "--out", str(data_dir / "report"))
    model, key, samples = _prepare(data_dir)
    picture = data_dir / "sample.png"
    picture.write_bytes(samples[0].png)
    with _serving(data_dir, port) as url:
        client = _Client(url, key, model)
        answered = _ask(console, client, samples)
        console.print(
            f"\n{len(answered)} variants answered: {', '.join(sorted(answered))}. "
            f"The whole demo took {time.monotonic() - start:.0f} s."
        )
        if keep_serving:
            _farewell(console, url, key, picture)
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()


def _gearshift(data_dir: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "app.cli", "--data-dir", str(data_dir), *arguments]
    if subprocess.run(command, check=False).returncode != 0:
        raise GearshiftError(f"'gearshift {' '.join(arguments)}' failed; the reason stands above")


def _prepare(data_dir: Path) -> tuple[str, str, list[Sample]]:
    """The model's name, a key of this run, and one test picture of each class."""
    found = settings.load(None, {"data_dir": data_dir})[0]
    with found.open_data() as data:
        record = data.registry.models()[0]
        for old in data.keys.all():
            if old.name == "demo" and old.revoked_at is None:
                data.keys.revoke(old.id, actor="demo", force=True)
        key = open_keys(data.keys, data.root, required=True, pepper=found.pepper).create(
            "demo", frozenset(SCOPES), actor="demo"
        )
        assert record.evaluation_digest is not None, "the build stores the test images"
        held_out = evaluation.load(data.store.blob_path(record.evaluation_digest))
    pixels = next(iter(held_out.inputs.values()))
    samples = []
    for label in range(len(record.spec.labels)):
        row = int(np.flatnonzero(held_out.labels == label)[0])
        picture = Image.fromarray((pixels[row, 0] * 255).round().astype(np.uint8), mode="L")
        png = io.BytesIO()
        picture.save(png, "PNG")
        samples.append(Sample(png=png.getvalue(), label=label))
    return record.spec.name, key, samples


@contextlib.contextmanager
def _serving(data_dir: Path, port: int) -> Iterator[str]:
    """`gearshift serve`, ready, ended with this block. Yields its address."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "app.cli",
            "--data-dir",
            str(data_dir),
            "serve",
            "--port",
            str(port),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield _ready(process)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _ready(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if address := re.search(r"listens on (\S+)", line):
            break
    else:
        raise GearshiftError("the gateway did not start:\n" + "".join(said))
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError), _open(f"{address[1]}/readyz"):
            return address[1]
        time.sleep(0.05)
    raise GearshiftError(f"the gateway was not ready within {READY_S:g} s")


def _open(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
    """Call our own gateway on the loopback address."""
    request = urllib.request.Request(url, body, headers or {})  # noqa: S310
    return urllib.request.urlopen(request, timeout=30)  # noqa: S310


class _Client:
    """Two calls of the API, with the standard library alone."""

    def __init__(self, url: str, key: str, model: str) -> None:
        self._url, self._key, self.model = url, key, model

    def infer(self, png: bytes, headers: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        """Status, body and headers of one picture's request."""
        return self._post(
            "/infer",
            png,
            {"Content-Type": "image/png", "Infer-Model": f'"{self.model}"', **headers},
        )

    def candidates(self) -> list[Any]:
        """Every variant with its estimate and numbers, from a dry run."""
        body = json.dumps({"model": self.model}).encode()
        _, answer, _ = self._post("/v1/route", body, {"Content-Type": "application/json"})
        return list(answer["candidates"])

    def _post(
        self, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, Any, dict[str, str]]:
        try:
            with _open(
                self._url + path, body, {"Authorization": f"Bearer {self._key}", **headers}
            ) as reply:
                return reply.status, json.loads(reply.read()), dict(reply.headers)
        except urllib.error.HTTPError as refusal:
            return refusal.code, json.loads(refusal.read()), dict(refusal.headers)


def budgets(candidates: list[Any]) -> list[Budget]:
    """Budgets that this machine's numbers tell apart.

    `candidates` are those of a dry run without constraints: `accuracy`, `accuracy_low`,
    `idle_latency_ms`, `cost_usd_per_million`.
    """
    by_latency = sorted(candidates, key=lambda c: c["idle_latency_ms"])
    best = max(candidates, key=lambda c: (c["accuracy"], -c["idle_latency_ms"]))
    quicker = [c for c in by_latency if c["idle_latency_ms"] < best["idle_latency_ms"] / 1.3]
    middle = max(quicker or by_latency, key=lambda c: (c["accuracy"], -c["idle_latency_ms"]))
    deadline_ms = math.ceil((middle["idle_latency_ms"] + best["idle_latency_ms"]) / 2 * 10) / 10
    cost = math.ceil(middle["cost_usd_per_million"] * 1000) / 1000
    floor = math.floor(middle["accuracy_low"] * 1000) / 1000
    impossible_ms = max(0.001, math.floor(by_latency[0]["idle_latency_ms"] / 2 * 1000) / 1000)
    return [
        Budget(words="no budget: the most accurate", headers={}),
        Budget(
            words=f"an answer within {deadline_ms} ms",
            headers={"Infer-Max-Latency-Ms": f"{deadline_ms}"},
        ),
        Budget(
            words="at most 1 point below the reference, as cheap as possible",
            headers={"Infer-Max-Accuracy-Drop": "1"},
        ),
        Budget(
            words=f"{deadline_ms} ms, surely {floor} accurate, {cost} $ a million: all three hold",
            headers={
                "Infer-Max-Latency-Ms": f"{deadline_ms}",
                "Infer-Min-Accuracy": f"{floor}",
                "Infer-Max-Cost": f"{cost}",
            },
        ),
        Budget(words="as fast as possible", headers={"Infer-Objective": "latency"}),
        Budget(
            words=f"within {impossible_ms} ms, which nothing here can do",
            headers={"Infer-Max-Latency-Ms": f"{impossible_ms}"},
        ),
        Budget(
            words=f"the same {impossible_ms} ms, but leniently",
            headers={"Infer-Max-Latency-Ms": f"{impossible_ms}", "Prefer": "handling=lenient"},
        ),
    ]


def _ask(console: Console, client: _Client, samples: list[Sample]) -> set[str]:
    """Send one request per budget and say who answered and why. Returns the variants."""
    for sample in samples:  # the first requests of a connection measure the gateway's own cost
        client.infer(sample.png, {})
    answered = set()
    console.print("\n[bold]The same endpoint, different budgets[/]")
    for budget, sample in zip(budgets(client.candidates()), samples, strict=False):
        status, body, headers = client.infer(sample.png, budget.headers)
        console.print(f"\n[bold]{budget.words}[/]")
        for name, value in budget.headers.items():
            console.print(f"  > {name}: {value}", style="cyan", markup=False)
        if status != 200:
            console.print(f"  < {status} {body['code']}: {body['detail']}", style="yellow")
            continue
        answered.add(body["variant"])
        best = body["predictions"][0]
        console.print(
            f"  < {body['variant']}: {best['label']} ({best['score']:.2f})"
            + (f", breaks {', '.join(body['violated'])}" if body.get("degraded") else ""),
            style="green",
            markup=False,
        )
        for name in ("infer-decision", "infer-predicted", "infer-actual"):
            console.print(f"    {name.title()}: {headers[name]}", style="dim", markup=False)
    return answered


def _farewell(console: Console, url: str, key: str, picture: Path) -> None:
    console.print(
        f"\nStill serving on {url} (API description: {url}/openapi.json). Ctrl-C ends it.\n"
        f"Key of this run: {key}\nReport: {picture.parent / 'report' / 'index.html'}\n\nTry\n"
        f"  curl -i {url}/infer -H 'Authorization: Bearer {key}' \\\n"
        f"    -H 'Infer-Model: \"fashion\"' -H 'Content-Type: image/png' \\\n"
        f"    -H 'Infer-Max-Latency-Ms: 5' --data-binary @{picture}",
        markup=False,
        soft_wrap=True,
    )
