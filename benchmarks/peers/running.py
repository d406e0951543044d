"""Environments of the peers, and servers that run."""

import contextlib
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import load
from benchmarks.peers.contestants import MODELS, Ask, Contestant, Payload, Row

HERE = Path(__file__).parent
START_S = 60.0
TOLERANCE = 1e-3


class NotStarted(Exception):
    """The server could not be installed or started, or answers something else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A running server: its process, its port, and how to ask it."""

    pid: int
    port: int
    ask: Ask

    def request(self, payload: Payload) -> bytes:
        """The request of this payload."""
        model = MODELS[payload]()
        return self.ask(model.name, model.row(), payload.endswith("binary"))


def install(contestant: Contestant, environments: Path) -> Path:
    """The Python of the contestant's environment, made where it is not there yet."""
    folder = environments / contestant.name
    python = folder / "bin" / "python"
    wanted = (HERE / f"{contestant.name}.txt").read_text(encoding="utf-8")
    stamp = folder / "installed.txt"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    base = contestant.python or sys.executable
    try:
        subprocess.run([base, "-m", "venv", folder], check=True, capture_output=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "-r", HERE / f"{contestant.name}.txt"],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        output = getattr(error, "stderr", b"") or b""
        last = output.decode(errors="replace").strip().splitlines()[-1:]
        raise NotStarted(f"not installed: {' '.join(last) or error}") from error
    stamp.write_text(wanted, encoding="utf-8")
    return python


@contextlib.contextmanager
def running(
    contestant: Contestant, python: Path, artifact: Path, payload: Payload, log: Path
) -> Iterator[Server]:
    """The contestant serving one artifact, until the end of the block.

    Raises `NotStarted` where it does not answer as ONNX Runtime does.
    """
    script = "inline.py" if contestant.name == "inline" else f"{contestant.name}_server.py"
    port = free_port()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [python, HERE / script, str(port), artifact],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            cwd=log.parent,
        )
    server = Server(pid=process.pid, port=port, ask=contestant.ask)
    try:
        wait(server, payload, artifact, process, log)
        yield server
    finally:
        members = load.family(process.pid)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        for pid in members:  # what it has started and left behind
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def wait(
    server: Server,
    payload: Payload,
    artifact: Path,
    process: "subprocess.Popen[Any]",
    log: Path,
) -> None:
    """Ask until the server answers, and hold its answer against ONNX Runtime's."""
    request, end = server.request(payload), time.monotonic() + START_S
    while True:
        try:
            status, body = send(server.port, request)
            if status == 200:
                break
            seen = f"{status} {body[:200]!r}"
        except OSError as error:
            seen = str(error)
        if process.poll() is not None or time.monotonic() > end:
            tail = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise NotStarted(f"not started: {seen}; {' '.join(tail)[:300]}")
        time.sleep(0.1)
    expected = answer_of(artifact, MODELS[payload]().row())
    # Values are the last that each reply has, in JSON or as bytes.
    found = _values(body, expected.size)
    if found is None or not np.allclose(found, expected, atol=TOLERANCE):
        raise NotStarted(f"it answers {body[:200]!r}; ONNX Runtime {expected.tolist()}")


def answer_of(artifact: Path, row: Row) -> Row:
    """What the model answers, flat."""
    import onnxruntime

    session = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    flat: Row = session.run(None, {"x": row})[0].ravel()
    return flat


def send(port: int, request: bytes) -> tuple[int, bytes]:
    """Status and body of one request. Raises `OSError`."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        reply = http.client.HTTPResponse(connection)
        try:
            reply.begin()
            return reply.status, reply.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error


def free_port() -> int:
    """A port that nothing listens on, nor on the two after it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _values(body: bytes, count: int) -> Row | None:
    try:
        found = _numbers(json.loads(body))[-count:]
    except ValueError:
        found = list(struct.unpack(f"<{count}f", body[-4 * count :]))
    return np.array(found, np.float32) if len(found) == count else None


def _numbers(value: Any) -> list[float]:
    """Every fraction in a JSON value; whole numbers are shapes and versions."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, float) else []
