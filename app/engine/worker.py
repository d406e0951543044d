"""A worker as the engine sees it, and the local process behind it."""

import asyncio
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from app.engine import frames
from app.engine.process import Process
from variants.runtimes import Tensor, Tensors
from variants.spec import TensorSpec

CRASH_SIGNALS = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
)
"""How native code dies of its own fault. SIGKILL is somebody else's: an operator, or the kernel."""

LOAD_LIMIT_S = 300.0
"""A worker that takes longer to open a variant is replaced."""


def kernel_kills() -> int:
    """How often the kernel has killed for memory in this control group (cgroup v2), 0 without."""
    try:
        text = Path("/sys/fs/cgroup/memory.events").read_text(encoding="ascii")
    except OSError:
        return 0
    counts = dict(line.split() for line in text.splitlines())
    return int(counts.get("oom_kill", 0))


class WorkerLost(Exception):
    """The worker died or was killed while it held the call; `cause` is a word for the metrics.

    `begun` tells whether it may have begun with it.
    """

    def __init__(self, cause: str, *, begun: bool = True) -> None:
        super().__init__(f"the worker was lost ({cause})")
        self.cause = cause
        self.begun = begun


class RunFailed(Exception):
    """The runtime raised, or answered what the model does not promise."""


class LoadFailed(Exception):
    """The worker could not load the artifact."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loading:
    """What a worker needs to open one variant, whose file must have the digest."""

    key: str
    path: str
    digest: str
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
    def alive(self) -> bool:
        """Whether it can be given work."""
        ...

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
        """Run one batch, after those that it was given before.

        Raises `RunFailed` or `WorkerLost`.
        """
        ...

    def kill(self, cause: str, key: str | None = None) -> None:
        """End it at once; everything that waits on it gets `WorkerLost` with this cause.

        `key` is the variant to blame, where that is not the one that it runs.
        """
        ...


_Reply = tuple[dict[str, Any], dict[str, Tensor]]


class LocalWorker(asyncio.Protocol):
    """A worker process on this host, over one end of a socket pair.

    Every operation has a number, and the reply to an operation that nobody waits for any more is
    dropped.
    """

    def __init__(self, process: Process) -> None:
        self._popen = process.popen
        self._kernel_kills = kernel_kills()
        self._buffer = bytearray()
        self._calls: dict[int, asyncio.Future[_Reply]] = {}
        self._runs: dict[int, str] = {}
        self._loading: list[str] = []
        self._loaded: frozenset[str] = frozenset()
        self._next_id = 0
        self._cause: str | None = None
        self._transport: asyncio.WriteTransport | None = None
        self.crashed = False
        self.lost_loading: str | None = None
        """The key that it was opening when it was lost: they are opened one at a time, in order."""
        self.lost_running: str | None = None
        """The key that it was running then: batches run one at a time, in order, too."""
        self._lost_run: int | None = None
        self._gone = asyncio.Event()

    @classmethod
    async def connect(cls, process: Process) -> "LocalWorker":
        """The worker in this process. It is of use once it has loaded something."""
        process.channel.setblocking(False)
        loop = asyncio.get_running_loop()
        _, worker = await loop.create_connection(lambda: cls(process), sock=process.channel)
        return worker

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._cause is None

    @property
    def loaded(self) -> frozenset[str]:
        return self._loaded if self.alive else frozenset()

    async def load(self, loading: Loading) -> float:
        self._loading.append(loading.key)
        try:
            async with asyncio.timeout(LOAD_LIMIT_S):
                reply, _ = await self._call(
                    {
                        "op": "load",
                        "key": loading.key,
                        "path": loading.path,
                        "digest": loading.digest,
                        "runtime": loading.runtime,
                        "threads": loading.threads,
                        "inputs": [[t.name, t.dtype, t.shape] for t in loading.inputs],
                    }
                )
        except TimeoutError:
            self.kill("hang")
            raise WorkerLost("hang") from None
        finally:
            self._loading.remove(loading.key)
        if "error" in reply:
            raise LoadFailed(str(reply["error"]))
        self._loaded |= {loading.key}
        return self._seconds(reply)

    async def unload(self, key: str) -> None:
        self._loaded -= {key}
        await self._call({"op": "unload", "key": key})
        self._loaded -= {key}  # it may have been on its way when this was asked

    async def run(self, key: str, inputs: Tensors) -> RunResult:
        reply, outputs = await self._call({"op": "run", "key": key}, inputs)
        if "error" in reply:
            if reply.get("memory"):
                self.kill("oom", key)
                raise WorkerLost("oom")
            raise RunFailed(str(reply["error"]))
        return RunResult(outputs=outputs, run_s=self._seconds(reply, key))

    def kill(self, cause: str, key: str | None = None) -> None:
        self._doom(cause, key)
        self._popen.kill()  # its end closes the socket, and then `connection_lost` cleans up

    async def lost(self) -> str:
        """Return the cause once the process is gone."""
        await self._gone.wait()
        return self._cause or "exit"

    def resident_bytes(self) -> int:
        """Resident memory of the process, 0 when it has just gone."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
            return int(pages) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            return 0

    def open_files(self) -> int:
        """Open file descriptors of the process, 0 when it has just gone."""
        try:
            return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())
        except OSError:
            return 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            while (frame := self._next_frame()) is not None:
                id = frame[0]["id"]
                call = self._calls.pop(id)
                self._runs.pop(id, None)
                if not call.done():
                    call.set_result(frame)
        except (frames.BadFrame, LookupError, TypeError):
            self.kill("garbage")

    def connection_lost(self, error: Exception | None) -> None:
        self._popen.kill()  # it may live on without its socket
        status = self._popen.wait()
        self.crashed = self.alive and (status > 0 or -status in CRASH_SIGNALS)
        killed_for_memory = status == -signal.SIGKILL and self._kernel_kills < kernel_kills()
        cause = self._doom("oom" if killed_for_memory else "crash" if status != 0 else "exit")
        for id, call in self._calls.items():
            if not call.done():
                begun = id not in self._runs or id == self._lost_run
                call.set_exception(WorkerLost(cause, begun=begun))
        self._gone.set()

    def _next_frame(self) -> _Reply | None:
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

    async def _call(self, header: dict[str, Any], tensors: Tensors | None = None) -> _Reply:
        if self._cause is not None or self._transport is None:
            raise WorkerLost(self._cause or "exit")
        self._next_id += 1
        parts = frames.pack({**header, "id": self._next_id}, tensors)
        call: asyncio.Future[_Reply] = asyncio.get_running_loop().create_future()
        self._calls[self._next_id] = call
        if header["op"] == "run":
            self._runs[self._next_id] = header["key"]
        self._transport.writelines(parts)
        return await call

    def _doom(self, cause: str, key: str | None = None) -> str:
        """From now on it is lost; the first cause counts."""
        if self._cause is None:
            self._cause = cause
            self.lost_loading = self._loading[0] if self._loading else None
            first = next(iter(self._runs.items()), (None, None))
            self._lost_run, self.lost_running = first if key is None else (None, key)
        return self._cause

    def _seconds(self, reply: dict[str, Any], key: str | None = None) -> float:
        seconds = reply.get("seconds")
        if not isinstance(seconds, float):
            self.kill("garbage", key)
            raise WorkerLost("garbage")
        return seconds
