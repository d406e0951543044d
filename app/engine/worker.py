"""A worker as the engine sees it, and the local process behind it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from app.engine import frames
from variants.runtimes import Tensor, Tensors
from variants.spec import TensorSpec

CRASH_SIGNALS = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
)


class WorkerLost(Exception):
    """The worker died or was killed while it held the call; `cause` is a word for the metrics."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"the worker was lost ({cause})")
        self.cause = cause


class RunFailed(Exception):
    """The runtime raised; the worker lives on."""


class LoadFailed(Exception):
    """The worker could not load the artifact."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loading:
    """What a worker needs to open one variant."""

    key: str
    path: str
    runtime: str
    threads: int
    inputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """Outputs by name, each with the batch's rows, and the seconds that the runtime took."""

    outputs: Mapping[str, Tensor]
    run_s: float


class Worker(Protocol):
    """Something that holds sessions and runs one batch at a time, here or on another host."""

    @property
    def loaded(self) -> frozenset[str]:
        """Keys of the variants that it can run now."""
        ...

    async def load(self, loading: Loading) -> float:
        """Open a variant and return the seconds it took. Raises `LoadFailed` or `WorkerLost`."""
        ...

    async def unload(self, key: str) -> None:
        """Close a variant. Raises `WorkerLost`."""
        ...

    async def run(self, key: str, inputs: Tensors) -> RunResult:
        """Run one batch. Raises `RunFailed` or `WorkerLost`."""
        ...

    def kill(self, cause: str) -> None:
        """End it at once; everything that waits on it gets `WorkerLost` with this cause."""
        ...


class LocalWorker(asyncio.Protocol):
    """A worker process on this host, over one end of a socket pair."""

    def __init__(self, on_lost: Callable[["LocalWorker", str], None]) -> None:
        self._on_lost = on_lost
        self._buffer = bytearray()
        self._calls: dict[int, asyncio.Future[RunResult]] = {}
        self._loads: dict[str, asyncio.Future[float]] = {}
        self._unloads: dict[str, asyncio.Future[None]] = {}
        self._loaded: frozenset[str] = frozenset()
        self._next_id = 0
        self._cause: str | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.crashed = False

    @classmethod
    async def start(cls, on_lost: Callable[["LocalWorker", str], None]) -> "LocalWorker":
        """Spawn the process. It is of use once it has loaded something."""
        worker = cls(on_lost)
        ours, theirs = socket.socketpair()
        with theirs:
            worker._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "app.engine.worker_process",
                    str(theirs.fileno()),
                    str(os.getpid()),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=_environment(),
            )
        ours.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: worker, sock=ours)
        return worker

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process is not None
        return self._process.pid

    @property
    def loaded(self) -> frozenset[str]:
        return self._loaded

    async def load(self, loading: Loading) -> float:
        future = self._loads.setdefault(loading.key, self._future())
        self._send(
            {
                "op": "load",
                "key": loading.key,
                "path": loading.path,
                "runtime": loading.runtime,
                "threads": loading.threads,
                "inputs": [[t.name, t.dtype, t.shape] for t in loading.inputs],
            }
        )
        return await asyncio.shield(future)

    async def unload(self, key: str) -> None:
        self._loaded -= {key}
        future = self._unloads.setdefault(key, self._future())
        self._send({"op": "unload", "key": key})
        await asyncio.shield(future)

    async def run(self, key: str, inputs: Tensors) -> RunResult:
        self._next_id += 1
        id = self._next_id
        future: asyncio.Future[RunResult] = self._future()
        self._calls[id] = future
        self._send({"op": "run", "id": id, "key": key}, inputs)
        return await future

    def kill(self, cause: str) -> None:
        self._cause = self._cause or cause
        if self._process is not None:
            self._process.kill()

    def resident_bytes(self) -> int:
        """Resident memory of the process, 0 when it has just gone."""
        try:
            with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            return 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            while (frame := self._next_frame()) is not None:
                self._handle(*frame)
        except (frames.BadFrame, KeyError, TypeError):
            self.kill("protocol")

    def connection_lost(self, error: Exception | None) -> None:
        assert self._process is not None
        self._process.kill()
        status = self._process.wait()
        self.crashed = self._cause is None and (status > 0 or -status in CRASH_SIGNALS)
        cause = self._cause or ("crash" if status != 0 else "exit")
        self._loaded = frozenset()
        waiting: list[asyncio.Future[Any]] = [
            *self._calls.values(),
            *self._loads.values(),
            *self._unloads.values(),
        ]
        for future in waiting:
            if not future.done():
                future.set_exception(WorkerLost(cause))
                future.exception()  # whoever waited may have gone; that is no news
        self._on_lost(self, cause)

    # Frames

    def _next_frame(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        prefix = frames.PREFIX.size
        if len(self._buffer) < prefix:
            return None
        header_bytes, payload_bytes = frames.sizes(bytes(self._buffer[:prefix]))
        end = prefix + header_bytes + payload_bytes
        if len(self._buffer) < end:
            return None
        header = bytes(self._buffer[prefix : prefix + header_bytes])
        payload = bytes(self._buffer[prefix + header_bytes : end])
        del self._buffer[:end]
        return frames.unpack(header, payload)

    def _handle(self, message: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        match message["op"]:
            case "done":
                result = RunResult(outputs=tensors, run_s=message["run_s"])
                _resolve(self._calls.pop(message["id"]), result)
            case "error":
                _reject(self._calls.pop(message["id"]), RunFailed(message["error"]))
            case "loaded":
                self._loaded |= {message["key"]}
                _resolve(self._loads.pop(message["key"]), message["load_s"])
            case "failed":
                _reject(self._loads.pop(message["key"]), LoadFailed(message["error"]))
            case "unloaded":
                _resolve(self._unloads.pop(message["key"]), None)
            case _:
                raise frames.BadFrame(f"unknown operation {message['op']!r}")

    def _send(self, header: dict[str, Any], tensors: Tensors | None = None) -> None:
        if self._transport is None or self._transport.is_closing():
            raise WorkerLost(self._cause or "crash")
        self._transport.writelines(frames.pack(header, tensors))

    def _future(self) -> "asyncio.Future[Any]":
        return asyncio.get_running_loop().create_future()


def _resolve(future: "asyncio.Future[Any]", value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _reject(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _environment() -> dict[str, str]:
    """The child's environment: no settings or secrets, and memory that returns after an unload."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GEARSHIFT_")}
    return {
        **kept,
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }
