"""Uploads as they arrive: how many at once, how many bytes, how much of the disk, and by whom.

Writing, hashing and fsync happen on two threads of their own with low priority, in pieces of a
mebibyte: inference decodes on other threads, and the event loop never waits for a disk.
"""

import asyncio
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from app.errors import UploadQuota
from app.settings import Options
from variants.errors import StorageFull
from variants.store import Store
from variants.uploads import Partial, Uploads

PIECE_BYTES = 1 << 20
STEP_BYTES = 16 << 20
"""An upload of unknown length asks for room in such steps."""

NICENESS = 10
P = ParamSpec("P")
T = TypeVar("T")


class Receiving:
    """The uploads that are on their way through this gateway."""

    def __init__(self, store: Store, options: Options) -> None:
        self._store = store
        self._options = options
        self._active: Counter[str] = Counter()
        self._promised: Counter[str] = Counter()
        self._threads = ThreadPoolExecutor(2, "upload", initializer=_step_back)
        self.uploads = Uploads(store)

    @contextmanager
    def admitted(self, owner: str) -> Iterator["Place"]:
        """A place among the uploads. Raises `UploadQuota` where all are taken."""
        limits = self._options.now
        if self._active[owner] >= limits.uploads_per_key:
            raise UploadQuota(f"this key has {limits.uploads_per_key} uploads at once already")
        if self._active.total() >= limits.uploads:
            raise UploadQuota(f"{limits.uploads} uploads are on their way already")
        self._active[owner] += 1
        place = Place(self, owner)
        try:
            yield place
        finally:
            self._active[owner] -= 1
            self._promised[owner] -= place.promised_bytes

    async def promise(self, owner: str, size_bytes: int) -> None:
        """Keep room for so many more bytes. Raises `StorageFull` where there is none."""
        limits = self._options.now
        own, every, free = await self.on_thread(self._room, owner)
        own += self._promised[owner] + size_bytes
        every += self._promised.total() + size_bytes
        if own > limits.unfinished_bytes_per_key:
            raise StorageFull(
                f"this key's unfinished uploads would have {own} bytes; "
                f"at most {limits.unfinished_bytes_per_key}: finish or cancel one"
            )
        if every > limits.unfinished_bytes:
            raise StorageFull(
                f"unfinished uploads would have {every} bytes; at most {limits.unfinished_bytes}"
            )
        if free - self._promised.total() - size_bytes < limits.min_free_bytes:
            raise StorageFull(
                f"the disk has {free} bytes left, and {limits.min_free_bytes} of them stay free"
            )
        self._promised[owner] += size_bytes

    async def on_thread(self, act: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Do what waits for the disk."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: act(*arguments, **named))

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _room(self, owner: str) -> tuple[int, int, int]:
        uploads = self.uploads
        return (
            uploads.unfinished_bytes(owner),
            uploads.unfinished_bytes(),
            self._store.free_bytes(),
        )

    def give(self, owner: str, size_bytes: int) -> None:
        """So many bytes are written and no longer only promised."""
        self._promised[owner] -= size_bytes


class Place:
    """One upload's place; what it was promised and has not written yet is held for it."""

    def __init__(self, receiving: Receiving, owner: str) -> None:
        self._receiving = receiving
        self._owner = owner
        self.promised_bytes = 0

    async def take(
        self, partial: Partial, chunks: AsyncIterator[bytes], declared_bytes: int | None
    ) -> None:
        """Append a body to an upload. Raises `StorageFull`, and what reading the body raises.

        What came before a body that breaks off is appended too.
        """
        await self._ask(STEP_BYTES if declared_bytes is None else declared_bytes)
        piece = bytearray()
        try:
            async for chunk in chunks:
                piece += chunk
                if len(piece) >= PIECE_BYTES:
                    whole, piece = piece, bytearray()
                    await self._write(partial, whole)
        finally:
            if piece:
                await self._write(partial, piece)

    async def _write(self, partial: Partial, piece: bytearray) -> None:
        if len(piece) > self.promised_bytes:
            await self._ask(max(STEP_BYTES, len(piece)))
        await self._receiving.on_thread(partial.write, bytes(piece))
        self.promised_bytes -= len(piece)
        self._receiving.give(self._owner, len(piece))

    async def _ask(self, size_bytes: int) -> None:
        await self._receiving.promise(self._owner, size_bytes)
        self.promised_bytes += size_bytes


def _step_back() -> None:
    """Give way to everything else on the machine. On Linux a thread has a priority of its own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
