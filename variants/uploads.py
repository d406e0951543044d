"""Blobs that have not arrived whole yet: kept for a day, so that an upload can go on.

    <root>/uploads/<owner>-<digest>           the bytes so far; its size is the offset
    <root>/uploads/<owner>-<digest>.<random>  one that is sent at once, and never goes on

Each belongs to the key that began it, so nobody can spoil another one's. Whoever appends holds the
file's lock. The bytes are believed only when all are here and have the digest that was promised.
"""

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from uuid import uuid4

from variants.errors import Conflict, Invalid
from variants.store import Store, storage_errors

KEEP_S = 24 * 3600.0
LOST_S = 60.0
"""An upload at once that nobody holds and that has rested so long has died with its gateway."""

_OWNER = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Partial:
    """The bytes so far, held by one writer."""

    def __init__(self, store: Store, file: FileIO, path: Path, digest: str) -> None:
        self._store = store
        self._file = file
        self._path = path
        self._digest = digest
        self.size_bytes = file.seek(0, 2)

    def write(self, data: bytes) -> None:
        """Append. Raises `StorageFull` when the disk does not take it; nothing is appended then."""
        left = memoryview(data)
        try:
            with storage_errors():
                while left:
                    left = left[self._file.write(left) :]
        except BaseException:
            with suppress(OSError):
                self._file.truncate(self.size_bytes)
            raise
        self.size_bytes += len(data)

    def discard(self) -> None:
        """Forget the bytes, as far as the disk allows it: a sweep comes by later."""
        with suppress(OSError):
            if _is_at(self._path, self._file):
                self._path.unlink()

    def finish(self) -> None:
        """Make the blob visible under its digest.

        Raises `Invalid` where the bytes have another one (they are forgotten then), and `Conflict`
        where the file is no longer in its place.
        """
        self._file.seek(0)
        found = hashlib.file_digest(self._file, "sha256").hexdigest()
        if found != self._digest:
            self.discard()
            raise Invalid(
                f"the bytes have SHA-256 {found}, but {self._digest} was promised",
                field="digest",
            )
        with storage_errors():
            if not _is_at(self._path, self._file):
                raise Conflict("this upload was removed meanwhile: begin it anew")
        self._store.adopt(self._file, self._path, self._digest)


class Uploads:
    """What is on its way into a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = store.root / "uploads"
        self._folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def at_once(self, owner: str, digest: str) -> Iterator[Partial]:
        """An upload beside all others, gone unless it is finished."""
        path = self._path(owner, f"{digest}.{uuid4().hex}")
        try:
            with self._locked(path) as file:
                yield Partial(self._store, file, path, digest)
        finally:
            with suppress(OSError):  # gone, or the disk takes nothing: a start sweeps it
                path.unlink()

    def offset(self, owner: str, digest: str) -> int | None:
        """The bytes that this owner's upload has; None where there is none."""
        try:
            return self._path(owner, digest).stat().st_size
        except FileNotFoundError:
            return None

    @contextmanager
    def open(self, owner: str, digest: str) -> Iterator[Partial]:
        """The upload to append to, begun where there is none; one that is empty is not kept.

        Raises `Conflict` while another request appends to it.
        """
        path = self._path(owner, digest)
        with self._locked(path) as file:
            partial = Partial(self._store, file, path, digest)
            try:
                yield partial
            finally:
                if partial.size_bytes == 0:
                    partial.discard()

    @contextmanager
    def _locked(self, path: Path) -> Iterator[FileIO]:
        with storage_errors():
            file = FileIO(path, "a+")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict("another request is sending bytes of this upload") from None
            if not _is_at(path, file):
                raise Conflict("this upload was removed just now: begin it anew")
            yield file

    def discard(self, owner: str, digest: str) -> bool:
        """Forget an upload; whether there was one. Raises `Conflict` while bytes of it arrive."""
        path = self._path(owner, digest)
        if not path.exists():
            return False
        with self._locked(path), storage_errors():
            path.unlink()
        return True

    def unfinished_bytes(self, owner: str | None = None) -> int:
        """What lies here, of one owner or of all."""
        prefix = "" if owner is None else f"{_checked(owner)}-"
        total = 0
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                total += path.stat().st_size if path.name.startswith(prefix) else 0
        return total

    def sweep(self, older_than_s: float = KEEP_S) -> None:
        """Remove what nobody has gone on with, or can; what is being written stays."""
        now_s = time.time()
        for path in self._folder.iterdir():
            keep_s = min(older_than_s, LOST_S) if path.suffix else older_than_s
            with suppress(OSError):  # it is held, or gone, or the disk takes nothing
                if path.stat().st_mtime >= now_s - keep_s:
                    continue
                with FileIO(path, "r+") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _is_at(path, file):
                        path.unlink()

    def _path(self, owner: str, name: str) -> Path:
        return self._folder / f"{_checked(owner)}-{name}"


def _is_at(path: Path, file: FileIO) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    return False


def _checked(owner: str) -> str:
    if not _OWNER.fullmatch(owner):
        raise Invalid(f"{owner!r} cannot own an upload", field="owner")
    return owner
