"""The child process that holds sessions and runs one batch at a time.

`python -m app.engine.worker_process FD PARENT_PID` reads frames from the inherited socket. Every
operation has an `id`, and its reply bears the same one:

    load    key, path, runtime, threads, inputs  → seconds | error
    unload  key                                  → nothing more
    run     key + input tensors                  → seconds + output tensors | error, memory

Loading happens on a thread of its own, so it never blocks a batch. The process ends with its
parent: at the socket's end, or by the parent-death signal (prctl(2), PR_SET_PDEATHSIG).
"""

import ctypes
import gc
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import numpy as np

from app.engine import frames
from variants import runtimes
from variants.digest import file_sha256
from variants.runtimes import Session, Tensors

PR_SET_PDEATHSIG = 1
JOINED_BYTES = 64 << 10
"""Smaller frames are sent with one system call."""

KEPT_BYTES = 4 << 20
"""Payloads up to this size share one piece of memory: new memory for each costs more than to read
into it. A reply is sent before the next frame is read."""


class WorkerProcess:
    """Sessions by key, and the socket to the gateway."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._reader = cast(BufferedReader, channel.makefile("rb", buffering=1 << 16))
        self._kept = memoryview(bytearray(KEPT_BYTES))
        self._sending = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._loader = ThreadPoolExecutor(max_workers=1)

    def serve(self) -> None:
        """Answer frames until the gateway closes the socket."""
        if not select.select([self._channel], [], [], 0)[0]:  # the gateway is not there yet
            self._loader.submit(_import_runtimes)
        while prefix := self._reader.read(frames.PREFIX.size):
            header_bytes, payload_bytes = frames.sizes(prefix)
            header = self._reader.read(header_bytes)
            message, tensors = frames.unpack(header, self._read(payload_bytes))
            match message["op"]:
                case "run":
                    self._run(message, tensors)
                case "load":
                    self._loader.submit(self._load, message)
                case "unload":
                    self._loader.submit(self._unload, message)

    def _read(self, size_bytes: int) -> bytes | memoryview:
        if size_bytes > KEPT_BYTES:
            return self._reader.read(size_bytes)
        payload = self._kept[:size_bytes]
        read = self._reader.readinto(payload)
        return payload[:read]  # less only where the gateway has gone

    def _run(self, message: dict[str, Any], inputs: Tensors) -> None:
        id = message["id"]
        start = time.perf_counter()
        try:
            outputs = self._sessions[message["key"]].run(inputs)
            reply = frames.pack({"id": id, "seconds": time.perf_counter() - start}, outputs)
        except Exception as error:  # a runtime may raise anything; the batch fails, not the worker
            reply = frames.pack({"id": id, "error": _words(error), "memory": _is_memory(error)})
        self._send(reply)

    def _load(self, message: dict[str, Any]) -> None:
        start = time.perf_counter()
        try:
            runtime = runtimes.find(message["runtime"])
            path = Path(message["path"])
            _hold(path, message["digest"])
            session = runtime.load(path, message["threads"])
            session.run({n: np.zeros((1, *s), d) for n, d, s in message["inputs"]})  # warm
        except Exception as error:
            words = _words(error).replace(message["path"], "the artifact")
            self._send(frames.pack({"id": message["id"], "error": words}))
            return
        self._sessions[message["key"]] = session
        gc.collect()
        gc.freeze()
        seconds = time.perf_counter() - start
        self._send(frames.pack({"id": message["id"], "seconds": seconds}))

    def _unload(self, message: dict[str, Any]) -> None:
        self._sessions.pop(message["key"], None)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        self._send(frames.pack({"id": message["id"]}))

    def _send(self, frame: list[bytes | memoryview]) -> None:
        if sum(map(len, frame)) < JOINED_BYTES:
            frame = [b"".join(frame)]
        with self._sending:
            for part in frame:
                self._channel.sendall(part)


def _import_runtimes() -> None:
    """Import what is installed while the gateway still starts; the first load finds it here."""
    for name in runtimes.installed():
        runtimes.find(name).version()


def _is_memory(error: Exception) -> bool:
    """Whether it is out of memory; runtimes say so in words of their own."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "bad_alloc" in text or "allocate memory" in text


def _hold(path: Path, digest: str) -> None:
    """Raise `ValueError` for a file that has changed since it was stored."""
    if (found := file_sha256(path)) != digest:
        raise ValueError(f"the artifact is damaged: it has SHA-256 {found}, not {digest}")


def _words(error: Exception) -> str:
    """The first line of an error."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300] if text else ''}"


def main() -> None:
    """Run until the parent goes."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the gateway's to handle
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.getppid() != int(sys.argv[2]):
        return  # the parent ended before the signal was asked for
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        WorkerProcess(channel).serve()


if __name__ == "__main__":
    main()
