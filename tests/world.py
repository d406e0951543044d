"""A real data folder with small variants, and a real gateway on a real socket, for tests.

publish(data, spec, evaluation, {"fp32": path, "int8": path})   # measured by real trials
with gateway(data_dir) as server:
    server.client().post("/infer", ...)
"""

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
from sqlalchemy import insert, select

from app.access import SCOPES
from app.keys import open_keys
from variants import evaluation as evaluations
from variants import tables, trial
from variants.data_folder import FILE, DataFolder, open_data_folder
from variants.database import Database
from variants.evaluation import EvaluationSet
from variants.manifest import Manifest, Step, manifest_id
from variants.measure import Effort
from variants.spec import ModelSpec

QUICK = Effort(seconds=0.01, samples=5)
READY_S = 30.0


def publish(
    data: DataFolder,
    spec: ModelSpec,
    evaluation: EvaluationSet | None,
    paths: Mapping[str, Path],
    *,
    reference: str | None = None,
) -> dict[str, Manifest]:
    """Measure each artifact in a real trial and activate it; the first is the reference."""
    digest = None if evaluation is None else data.store.put_bytes(evaluations.dumps(evaluation))
    data.registry.put_model(spec, digest, actor="test")
    found = {}
    for name, path in paths.items():
        result = trial.run(
            trial.Request(
                path=path,
                spec=spec,
                runtimes=("onnxruntime",),
                evaluations={} if digest is None else {"test": data.store.blob_path(digest)},
                effort=QUICK,
            )
        )
        artifact = data.store.put_file(path)
        recipe = (Step(technique=name.split("-")[0], config={}),)
        manifest = Manifest(
            id=manifest_id(
                model=spec.name,
                variant=name,
                parent=None,
                recipe=recipe,
                tools={},
                artifact=artifact,
            ),
            model=spec.name,
            variant=name,
            parent=None,
            recipe=recipe,
            tools={},
            artifact=artifact,
            runtime=result.runtime,
            accuracy=result.accuracy.get("test"),
            profiles=result.profiles,
            build_key=None,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        data.store.put_manifest(manifest)
        data.registry.add_variant(
            model=spec.name, name=name, artifact_digest=artifact.digest, actor="test", reason="test"
        )
        for state in ("verified", "profiled", "active"):
            data.registry.move(
                spec.name, name, state, actor="test", reason="test", manifest_id=manifest.id
            )
        found[name] = manifest
    data.registry.set_reference(spec.name, reference or next(iter(paths)), actor="test")
    return found


def move_to_postgres(root: Path, url: str) -> None:
    """Bring a data folder's registry into an empty PostgreSQL database; its file is gone then."""
    with open_data_folder(root) as old:
        database = Database(url)
        with old.database.read() as source, database.change() as target:
            for table in (tables.models, tables.variants, tables.keys, tables.audit):
                rows = [dict(row._mapping) for row in source.execute(select(table))]
                for row in rows:
                    if table is tables.audit:
                        del row["id"]  # the server counts on from its own numbers
                target.execute(insert(table), rows)
        database.close()
    (root / FILE).unlink()


def make_key(data: DataFolder, *scopes: str) -> str:
    """A key with these scopes, or with all of them."""
    keys = open_keys(data.keys, data.root, required=True)
    return keys.create("test", frozenset(scopes or SCOPES), actor="test")


@dataclass
class Gateway:
    """A running `gearshift serve`."""

    process: subprocess.Popen[str]
    url: str
    key: str
    log: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.url.rsplit(":", 1)[1])

    def client(self, key: str | None = None, **options: object) -> httpx.Client:
        """A client that sends a key (this gateway's admin key by default; "" sends none)."""
        key = self.key if key is None else key
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(
            base_url=self.url, headers=headers, timeout=30, trust_env=False, **options
        )  # type: ignore[arg-type]

    def workers(self) -> list[int]:
        """Process numbers of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [
            int(child)
            for child in children.split()
            if b"worker_process" in _command_line(int(child))
        ]

    def wait_ready(self, within_s: float = READY_S) -> float:
        """Poll until ready and return the seconds that it took."""
        start = time.monotonic()
        with self.client("") as client:
            while time.monotonic() - start < within_s:
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/readyz").status_code == 200:
                        return time.monotonic() - start
                time.sleep(0.02)
        raise AssertionError(f"not ready within {within_s} s:\n" + "".join(self.log))


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextlib.contextmanager
def gateway(
    data_dir: Path,
    key: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    ready: bool = True,
    config: Path | None = None,
    source: Path | None = None,
) -> Iterator[Gateway]:
    """`gearshift serve` on a free port of the loopback address, ended by SIGTERM.

    `source` is the folder whose packages it runs; this one's by default.
    """
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "app.cli",
            *(() if config is None else ("--config", str(config))),
            "--data-dir",
            str(data_dir),
            "serve",
            "--port",
            "0",
            *arguments,
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
        cwd=source,
    )
    lines: list[str] = []
    listening = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if "listens on" in line:
                listening.set()
        listening.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    listening.wait(READY_S)
    address = re.search(r"http://\S+", "".join(lines))
    assert address is not None, "".join(lines)
    running = Gateway(process=process, url=address[0], key=key, log=lines)
    try:
        if ready:
            running.wait_ready()
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(5)
        if process.stderr is not None:
            process.stderr.close()


def upload(client: httpx.Client, path: Path) -> str:
    """Upload an artifact and return its digest."""
    return upload_bytes(client, path.read_bytes())


def upload_bytes(client: httpx.Client, content: bytes) -> str:
    """Upload bytes and return their digest."""
    digest = hashlib.sha256(content).hexdigest()
    client.put(f"/v1/blobs/{digest}", content=content).raise_for_status()
    return digest
