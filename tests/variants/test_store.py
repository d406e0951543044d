"""The store: a blob is whole under its digest, or it is not there."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.variants.test_manifest import MANIFEST
from variants.errors import Invalid, NotFound, StorageFull
from variants.store import Incoming, Store, storage_errors


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_published_bytes_lie_under_their_digest(store: Store) -> None:
    digest = store.put_bytes(b"weights")
    assert digest == sha256(b"weights")
    assert store.has_blob(digest)
    assert store.blob_size(digest) == 7
    assert store.blob_path(digest).read_bytes() == b"weights"
    assert files(store.root) == [store.blob_path(digest)]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.binary(max_size=100), max_size=5))
def test_chunks_add_up(tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]) -> None:
    store = Store(tmp_path_factory.mktemp("data"))
    with store.incoming() as blob:
        for chunk in chunks:
            blob.write(chunk)
        digest = blob.publish()
    assert blob.size_bytes == store.blob_size(digest) == len(b"".join(chunks))
    assert store.blob_path(digest).read_bytes() == b"".join(chunks)


def test_a_file_is_copied_and_described(store: Store, tiny_onnx: Path) -> None:
    artifact = store.put_file(tiny_onnx)
    assert artifact.digest == sha256(tiny_onnx.read_bytes())
    assert artifact.size_bytes == tiny_onnx.stat().st_size
    assert tiny_onnx.exists()


def test_an_upload_cut_short_leaves_nothing(store: Store) -> None:
    with pytest.raises(ConnectionError), store.incoming() as blob:
        blob.write(b"half")
        raise ConnectionError
    with store.incoming() as blob:
        blob.write(b"never published")
    assert files(store.root) == []


def test_missing_blobs_and_manifests_are_not_found(store: Store) -> None:
    assert not store.has_blob("0" * 64)
    with pytest.raises(NotFound):
        store.blob_size("0" * 64)
    with pytest.raises(NotFound):
        store.manifest("0" * 64)


def test_a_manifest_is_stored_once_under_its_id(store: Store) -> None:
    store.put_manifest(MANIFEST)
    store.put_manifest(MANIFEST)
    assert store.manifest(MANIFEST.id) == MANIFEST
    assert [path.name for path in files(store.root)] == [f"{MANIFEST.id}.json"]


def test_a_damaged_manifest_is_invalid(store: Store) -> None:
    store.put_manifest(MANIFEST)
    path = store.root / "manifests" / f"{MANIFEST.id}.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(Invalid):
        store.manifest(MANIFEST.id)


WRITER = """
import sys
from pathlib import Path
from variants.store import Store

with Store(Path(sys.argv[1])).incoming() as blob:
    blob.write(b"half of it" * 100_000)
    print("written", flush=True)
    sys.stdin.read()
    blob.publish()
"""


def start_writer(store: Store) -> subprocess.Popen[str]:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(store.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "written\n"
    return writer


def test_a_writer_killed_midway_publishes_nothing_and_is_swept(store: Store) -> None:
    with start_writer(store) as writer:
        writer.send_signal(signal.SIGKILL)
    left = files(store.root)
    assert [path.parent.name for path in left] == ["incoming"]
    Store(store.root).sweep()
    assert files(store.root) == []


def test_a_sweep_leaves_files_that_are_still_being_written(store: Store) -> None:
    with start_writer(store) as writer:
        Store(store.root).sweep()
        writer.communicate("")
    assert writer.returncode == 0
    assert [path.name for path in files(store.root)] == [sha256(b"half of it" * 100_000)]


PUBLISHER = """
import sys
from pathlib import Path
from variants.store import Store

store, data = Store(Path(sys.argv[1])), b"same bytes" * 10_000
for _ in range(20):
    assert store.blob_path(store.put_bytes(data)).read_bytes() == data
"""


def test_processes_may_publish_the_same_blob_at_once(store: Store) -> None:
    command = [sys.executable, "-c", PUBLISHER, store.root]
    writers = [subprocess.Popen(command) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert files(store.root) == [store.blob_path(sha256(b"same bytes" * 10_000))]


def test_a_full_disk_is_storage_full() -> None:
    with (
        pytest.raises(StorageFull),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        Incoming(Path, full, Path("/dev/full")).write(b"one byte too many")


def test_only_a_full_disk_is_storage_full() -> None:
    for code in (errno.ENOSPC, errno.EDQUOT):
        with pytest.raises(StorageFull), storage_errors():
            raise OSError(code, os.strerror(code))
    with pytest.raises(PermissionError), storage_errors():
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_really_full_disk_refuses_and_keeps_nothing(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    try:
        store = Store(tmp_path)
        kept = store.put_bytes(b"small")
        with pytest.raises(StorageFull):
            store.put_bytes(b"x" * 2**20)
        assert files(tmp_path) == [store.blob_path(kept)]
        assert store.has_blob(store.put_bytes(b"still works"))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_small_blobs_are_read_whole_and_held_against_their_digest(store: Store) -> None:
    digest = store.put_bytes(b"words")
    assert store.read_bytes(digest, max_bytes=5) == b"words"
    with pytest.raises(Invalid, match="at most 4"):
        store.read_bytes(digest, max_bytes=4)
    store.blob_path(digest).write_bytes(b"sword")
    with pytest.raises(Invalid, match="damaged"):
        store.read_bytes(digest, max_bytes=5)
    with pytest.raises(NotFound):
        store.read_bytes("0" * 64, max_bytes=5)


def test_a_damaged_blob_is_told_apart_and_repaired(store: Store) -> None:
    digest = store.put_bytes(b"weights")
    assert store.touch(digest)
    for damaged in (b"weighty", b"weight", b""):
        store.blob_path(digest).write_bytes(damaged)
        assert not store.touch(digest)
        assert store.put_bytes(b"weights") == digest
        assert store.touch(digest)
    assert not store.touch("0" * 64)
