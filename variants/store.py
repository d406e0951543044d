"""Content-addressed blobs and manifests on disk.

    <root>/blobs/ab/abcdef…       bytes under their SHA-256
    <root>/manifests/<id>.json    one per variant
    <root>/incoming/              files being written; leftovers are swept at start

Publishing writes aside, fsyncs, renames atomically and fsyncs the folder, so a reader sees a
whole file or none.
"""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Literal
from uuid import uuid4

from variants import manifest as manifests
from variants.digest import file_sha256
from variants.errors import Invalid, NotFound, StorageBroken, StorageFull
from variants.manifest import Artifact, Manifest
from variants.remote import Remote


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A file of the store: a blob by its digest or a manifest by its id; `written_at` in seconds
    since 1970."""

    kind: Literal["blob", "manifest"]
    name: str
    size_bytes: int
    written_at: float


class Incoming:
    """A blob being written: `write` chunks, then `publish` under its digest."""

    def __init__(
        self, adopt: Callable[[BinaryIO, Path, str], None], file: BinaryIO, path: Path
    ) -> None:
        self._adopt = adopt
        self._file = file
        self._path = path
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, chunk: bytes) -> None:
        """Append a chunk. Raises `StorageFull` when the disk does not take it."""
        with storage_errors():
            self._file.write(chunk)
        self._hash.update(chunk)
        self.size_bytes += len(chunk)

    def publish(self) -> str:
        """Make the blob visible and return its digest."""
        digest = self._hash.hexdigest()
        self._adopt(self._file, self._path, digest)
        return digest


class Store:
    """Blobs and manifests under one folder. Safe for several processes: files never change.

    With a `remote`, that is where they are kept, and the folder holds copies of what was used here.
    """

    def __init__(self, root: Path, remote: Remote | None = None) -> None:
        self.root = root
        self._remote = remote
        for folder in ("blobs", "manifests", "incoming"):
            (root / folder).mkdir(parents=True, exist_ok=True)

    def blob_path(self, digest: str) -> Path:
        """Where the blob with this digest lies, or would lie; it is fetched where it is not here.

        Raises `Invalid` where what was fetched has another digest, and `StorageBroken`.
        """
        path = self._blob_path(digest)
        if self._remote is not None and not path.is_file():
            with suppress(NotFound):
                self._fetch(self._remote, digest, path)
        return path

    def has_blob(self, digest: str) -> bool:
        """Whether the blob is stored."""
        try:
            self.blob_size(digest)
        except NotFound:
            return False
        return True

    def blob_size(self, digest: str) -> int:
        """Bytes of a stored blob. Raises `NotFound`."""
        if self._remote is not None:
            return self._remote.size(_blob_name(digest))
        try:
            return self._blob_path(digest).stat().st_size
        except FileNotFoundError:
            raise NotFound(f"no blob {digest}") from None

    def files(self) -> Iterator[Stored]:
        """Every blob and manifest; those only here, though they are kept elsewhere, too."""
        seen = set()
        for remote in () if self._remote is None else self._remote.files():
            if file := _stored(remote.name, remote.size_bytes, remote.written_at):
                seen.add((file.kind, file.name))
                yield file
        for path in (*self.root.glob("blobs/*/*"), *self.root.glob("manifests/*")):
            with suppress(FileNotFoundError):
                found, name = path.stat(), str(path.relative_to(self.root))
                file = _stored(name, found.st_size, found.st_mtime)
                if file and (file.kind, file.name) not in seen:
                    yield file

    def remove(self, file: Stored) -> bool:
        """Remove a blob or a manifest that nothing needs; not one that was written again since."""
        name = _blob_name(file.name) if file.kind == "blob" else _manifest_name(file.name)
        with suppress(NotFound):
            if self._written_at(name) > file.written_at:
                return False
        if self._remote is not None:
            with suppress(NotFound):
                self._remote.remove(name)
        (self.root / name).unlink(missing_ok=True)
        return True

    def _written_at(self, name: str) -> float:
        """As `files` would tell it. Raises `NotFound`."""
        if self._remote is not None:
            with suppress(NotFound):
                return self._remote.written_at(name)
        try:
            return (self.root / name).stat().st_mtime
        except FileNotFoundError:
            raise NotFound(f"no {name}") from None

    def touch(self, digest: str) -> bool:
        """Whether the blob is stored whole; then it counts as written now, not to be swept as old.

        All of it is held against its digest. May raise `StorageBroken`.
        """
        path = self._blob_path(digest)
        with suppress(NotFound, Invalid):
            self.heal(digest)
        if not _is_whole(path, digest):
            return False
        with suppress(OSError):
            os.utime(path)
        if self._remote is not None:
            self._remote.put(path, _blob_name(digest))
        return True

    def heal(self, digest: str) -> None:
        """Fetch a copy again that is missing here or damaged; a store without a remote cannot.

        Raises `NotFound`, `Invalid` where the remote's is damaged too, and `StorageBroken`.
        """
        path = self._blob_path(digest)
        if self._remote is not None and not _is_whole(path, digest):
            self._fetch(self._remote, digest, path)

    @contextmanager
    def incoming(self) -> Iterator[Incoming]:
        """A blob to write in chunks; it vanishes unless it is published."""
        with self.aside() as (file, path):
            yield Incoming(self.adopt, file, path)

    def adopt(self, file: BinaryIO | FileIO, path: Path, digest: str) -> None:
        """Publish a file of this file system whose bytes are known to have the digest."""
        self._publish(file, path, _blob_name(digest))

    def free_bytes(self) -> int:
        """What the disk still takes."""
        return shutil.disk_usage(self.root).free

    def size_bytes(self) -> int:
        """What blobs and manifests take here; of a store with a remote, the copies."""
        total = 0
        for path in (*self.root.glob("blobs/*/*"), *self.root.glob("manifests/*")):
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def put_file(self, path: Path) -> Artifact:
        """Publish a copy of an ONNX file."""
        with self.incoming() as blob, path.open("rb") as source:
            while chunk := source.read(1 << 20):
                blob.write(chunk)
            return Artifact(digest=blob.publish(), size_bytes=blob.size_bytes, format="onnx")

    def put_bytes(self, data: bytes) -> str:
        """Publish bytes and return their digest."""
        with self.incoming() as blob:
            blob.write(data)
            return blob.publish()

    def read_bytes(self, digest: str, *, max_bytes: int) -> bytes:
        """A small blob's bytes, held against their digest.

        Raises `NotFound`, or `Invalid` where they are more or others than promised.
        """
        if (size := self.blob_size(digest)) > max_bytes:
            raise Invalid(f"blob {digest} has {size} bytes; at most {max_bytes} are read")
        data = self.blob_path(digest).read_bytes()
        if (found := hashlib.sha256(data).hexdigest()) != digest:
            raise Invalid(f"blob {digest} is damaged: its bytes have SHA-256 {found}")
        return data

    def put_manifest(self, manifest: Manifest) -> None:
        """Publish a manifest under its id, replacing older measurements of the same variant."""
        with self.aside() as (file, path):
            with storage_errors():
                file.write(manifests.dumps(manifest))
            self._publish(file, path, _manifest_name(manifest.id))

    def manifest(self, manifest_id: str) -> Manifest:
        """The manifest with this id. Raises `NotFound`, or `Invalid` when it is damaged."""
        found = manifests.loads(self.manifest_bytes(manifest_id))
        if found.id != manifest_id:
            raise Invalid(f"manifest {manifest_id} is damaged: it says that it is {found.id}")
        return found

    def manifest_bytes(self, manifest_id: str) -> bytes:
        """A manifest as it is kept, or as it was when last read where the remote is out of reach.

        Raises `NotFound`.
        """
        name = _manifest_name(manifest_id)
        if self._remote is not None:
            try:
                data = self._remote.read(name)
            except StorageBroken:
                if not (self.root / name).exists():
                    raise
            else:
                # The copy is for later: a disk that takes none does not keep it from being read.
                with (
                    suppress(StorageFull, StorageBroken),
                    storage_errors(),
                    self.aside() as (file, path),
                ):
                    file.write(data)
                    _place(file, path, self.root / name)
                return data
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"no manifest {manifest_id}") from None

    def sweep(self) -> None:
        """Remove what writers that died left behind; files still being written stay."""
        for path in (self.root / "incoming").iterdir():
            # Held, or gone, or the disk takes nothing: a later start sweeps it.
            with suppress(OSError), path.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()

    @contextmanager
    def aside(self) -> Iterator[tuple[BinaryIO, Path]]:
        """A file of its own, locked while it is used and gone afterwards.

        Where the process is killed, the next `sweep` takes it away.
        """
        path = self.root / "incoming" / uuid4().hex
        try:
            with storage_errors():
                file = path.open("xb")
            with file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield file, path
        finally:
            with suppress(OSError):  # gone, or the disk takes nothing: the next start sweeps it
                path.unlink()

    def _blob_path(self, digest: str) -> Path:
        return self.root / _blob_name(digest)

    def _fetch(self, remote: Remote, digest: str, target: Path) -> None:
        with self.aside() as (file, path):
            remote.fetch(_blob_name(digest), path)
            if (found := file_sha256(path)) != digest:
                raise Invalid(f"blob {digest} is damaged: its bytes have SHA-256 {found}")
            _place(file, path, target)

    def _publish(self, file: BinaryIO | FileIO, path: Path, name: str) -> None:
        """Put the finished file where readers look for it, everywhere before here."""
        with storage_errors():
            file.flush()
        if self._remote is not None:
            self._remote.put(path, name)
        _place(file, path, self.root / name)


def _is_whole(path: Path, digest: str) -> bool:
    with suppress(FileNotFoundError):
        return file_sha256(path) == digest
    return False


def _blob_name(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"


def _manifest_name(id: str) -> str:
    return f"manifests/{id}.json"


def _stored(name: str, size_bytes: int, written_at: float) -> Stored | None:
    """A file by its name; None for what is neither blob nor manifest."""
    last = name.rpartition("/")[2]
    for kind, own in (("blob", last), ("manifest", last.removesuffix(".json"))):
        whole = _blob_name(own) if kind == "blob" else _manifest_name(own)
        if whole == name:
            return Stored(
                kind="blob" if kind == "blob" else "manifest",
                name=own,
                size_bytes=size_bytes,
                written_at=written_at,
            )
    return None


def _place(file: BinaryIO | FileIO, path: Path, target: Path) -> None:
    """Rename the finished file, so that a power cut cannot undo it."""
    with storage_errors():
        file.flush()
        os.fsync(file.fileno())
        target.parent.mkdir(exist_ok=True)
        sync_folder(target.parent.parent)  # who made it may not have come to that
        path.replace(target)
        try:
            sync_folder(target.parent)
        except OSError:
            target.unlink()  # nobody may find what a power cut could take away
            raise


def sync_folder(path: Path) -> None:
    """Have the names in a folder on the disk."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn a full disk into `StorageFull`; one that keeps nothing, or no file descriptor being
    left, into `StorageBroken`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("the artifact store's disk is full") from error
        if error.errno in (errno.EROFS, errno.EIO):
            raise StorageBroken(
                "the artifact store's disk keeps nothing that is written"
            ) from error
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise StorageBroken("no file can be opened now: too many are open") from error
        raise
