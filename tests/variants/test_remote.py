"""A store behind a bucket: shared, verified, and told apart from its local copies."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.ladder import MODEL, Ladder
from tests.variants.test_backup import bring_back
from tests.variants.test_manifest import MANIFEST
from variants import backup, retention
from variants.data_folder import open_data_folder
from variants.errors import Invalid, NotFound, StorageBroken
from variants.remote import Remote
from variants.store import Store

pytest.importorskip("s3fs")

WEIGHTS = b"weights" * 1000


@pytest.fixture(scope="module")
def bucket() -> Iterator[servers.Bucket]:
    """A server of this module's own; one test ends it."""
    with servers.bucket() as found:
        yield found


@pytest.fixture
def url(
    bucket: servers.Bucket, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> str:
    """An empty prefix of the bucket."""
    for name, value in bucket.env.items():
        monkeypatch.setenv(name, value)
    return f"s3://gearshift/{request.node.name.replace('[', '-').strip(']')}"


def store(folder: Path, url: str) -> Store:
    return Store(folder, Remote(url))


def test_what_one_stores_another_reads_whole(url: str, tmp_path: Path) -> None:
    one, other = store(tmp_path / "one", url), store(tmp_path / "other", url)
    digest = one.put_bytes(WEIGHTS)
    one.put_manifest(MANIFEST)
    assert other.has_blob(digest)
    assert other.blob_size(digest) == len(WEIGHTS)
    assert not list((tmp_path / "other" / "blobs").iterdir())
    assert other.blob_path(digest).read_bytes() == WEIGHTS
    assert other.manifest(MANIFEST.id) == MANIFEST
    assert not list((tmp_path / "other" / "incoming").iterdir())
    for missing in ("0" * 64, "f" * 64):
        assert not other.has_blob(missing)
        with pytest.raises(NotFound):
            other.blob_size(missing)
        with pytest.raises(NotFound):
            other.manifest(missing)


def test_a_damaged_blob_is_not_taken(url: str, tmp_path: Path) -> None:
    one, other = store(tmp_path / "one", url), store(tmp_path / "other", url)
    digest = one.put_bytes(WEIGHTS)
    bad = tmp_path / "bad"
    bad.write_bytes(WEIGHTS[:-1] + b"!")
    Remote(url).put(bad, f"blobs/{digest[:2]}/{digest}")
    with pytest.raises(Invalid, match="damaged"):
        other.blob_path(digest)
    assert not list((tmp_path / "other" / "blobs").iterdir())
    assert not list((tmp_path / "other" / "incoming").iterdir())


def spoil(place: Path) -> None:
    place.write_bytes(WEIGHTS[:-1] + b"!")


def test_a_damaged_copy_never_replaces_the_good_one_and_is_fetched_again(
    url: str, tmp_path: Path
) -> None:
    one = store(tmp_path / "one", url)
    digest = one.put_bytes(WEIGHTS)
    for heal in (one.touch, one.heal):
        spoil(one.blob_path(digest))
        heal(digest)
        assert one.blob_path(digest).read_bytes() == WEIGHTS
        assert store(tmp_path / heal.__name__, url).blob_path(digest).read_bytes() == WEIGHTS


def test_a_damaged_object_is_replaced_by_a_whole_copy_or_by_an_upload(
    url: str, tmp_path: Path
) -> None:
    one = store(tmp_path / "one", url)
    digest = one.put_bytes(WEIGHTS)
    spoil(bad := tmp_path / "bad")
    Remote(url).put(bad, f"blobs/{digest[:2]}/{digest}")
    assert one.touch(digest)
    assert store(tmp_path / "two", url).blob_path(digest).read_bytes() == WEIGHTS
    Remote(url).put(bad, f"blobs/{digest[:2]}/{digest}")
    spoil(one.blob_path(digest))
    assert not one.touch(digest)
    with pytest.raises(Invalid, match="damaged"):
        one.heal(digest)
    assert one.put_bytes(WEIGHTS) == digest
    assert store(tmp_path / "three", url).blob_path(digest).read_bytes() == WEIGHTS


def test_a_local_copy_alone_does_not_count_as_stored(url: str, tmp_path: Path) -> None:
    one = store(tmp_path / "one", url)
    digest = one.put_bytes(WEIGHTS)
    Remote(url).remove(f"blobs/{digest[:2]}/{digest}")
    assert not one.has_blob(digest)
    assert one.put_bytes(WEIGHTS) == digest
    assert store(tmp_path / "other", url).has_blob(digest)


def test_a_data_folder_on_a_bucket_is_swept_and_backed_up(
    url: str, ladder: Ladder, tmp_path: Path
) -> None:
    with open_data_folder(ladder.root) as data:
        backup.back_up(data, tmp_path / "backup")
    shared = store(tmp_path / "data", url)
    backup.restore(tmp_path / "backup", tmp_path / "data", shared, force=False, actor="test")
    with open_data_folder(tmp_path / "data", store_url=url) as data:
        unused = data.store.put_bytes(b"unused")
        assert [file.name for file in retention.sweep(data, grace_s=-1, actor="test")] == [unused]
        assert not data.store.has_blob(unused)
        backup.back_up(data, tmp_path / "again")
    bring_back(tmp_path / "again", tmp_path / "back")
    with open_data_folder(tmp_path / "back") as data:
        assert len(data.registry.variants(MODEL)) == 4


@pytest.mark.parametrize("url_of", ["http://x/y", "s3://", "file:///tmp/x", "s3:/x"])
def test_another_address_is_refused(url_of: str) -> None:
    with pytest.raises(Invalid, match="s3://bucket"):
        Remote(url_of)


def test_a_bucket_that_is_gone_is_told_and_what_is_here_is_still_read(
    url: str, tmp_path: Path, bucket: servers.Bucket
) -> None:
    one = store(tmp_path / "one", url)
    digest = one.put_bytes(WEIGHTS)
    one.put_manifest(MANIFEST)
    bucket.process.kill()
    bucket.process.wait()
    assert one.blob_path(digest).read_bytes() == WEIGHTS
    once_s, ten_s = (_reading_s(one, times) for times in (2, 10))
    assert ten_s < once_s  # only who tries anew waits for it
    with pytest.raises(StorageBroken):
        one.put_bytes(b"new")
    assert not list((tmp_path / "one" / "incoming").iterdir())


def _reading_s(found: Store, times: int) -> float:
    """Seconds that a manifest takes to be read so often."""
    begun_s = time.monotonic()
    for _ in range(times):
        assert found.manifest(MANIFEST.id) == MANIFEST
    return time.monotonic() - begun_s
