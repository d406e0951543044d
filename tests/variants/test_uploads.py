"""Uploads on their way: nothing but the promised bytes ever lies under a digest."""

import hashlib
from pathlib import Path

import pytest

from tests.limits import no_more_files
from variants.errors import Conflict, StorageBroken
from variants.store import Store
from variants.uploads import Uploads

WEIGHTS = b"weights" * 1000
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def uploads(store: Store) -> Uploads:
    return Uploads(store)


def lying(store: Store) -> Path:
    return store.root / "uploads" / f"key-{DIGEST}"


def test_an_upload_cannot_be_cancelled_while_bytes_of_it_arrive(
    store: Store, uploads: Uploads
) -> None:
    with uploads.open("key", DIGEST) as one:
        one.write(WEIGHTS)
        with pytest.raises(Conflict):
            uploads.discard("key", DIGEST)
        with pytest.raises(Conflict), uploads.open("key", DIGEST):
            pass
        one.finish()
    assert store.blob_path(DIGEST).read_bytes() == WEIGHTS
    assert not uploads.discard("key", DIGEST)


def test_a_cancelled_upload_begins_anew(uploads: Uploads) -> None:
    with uploads.open("key", DIGEST) as one:
        one.write(WEIGHTS[:10])
    assert uploads.offset("key", DIGEST) == 10
    assert uploads.discard("key", DIGEST)
    assert uploads.offset("key", DIGEST) is None


def test_bytes_that_were_put_in_an_uploads_place_are_never_published(
    store: Store, uploads: Uploads
) -> None:
    with uploads.open("key", DIGEST) as one:
        one.write(WEIGHTS)
        lying(store).unlink()
        with uploads.open("key", DIGEST) as two:
            two.write(b"x")
            with pytest.raises(Conflict, match="removed meanwhile"):
                one.finish()
    assert not store.has_blob(DIGEST)
    assert uploads.offset("key", DIGEST) == 1


def test_an_upload_whose_file_is_gone_is_told_so(store: Store, uploads: Uploads) -> None:
    with uploads.open("key", DIGEST) as one:
        one.write(WEIGHTS)
        lying(store).unlink()
        with pytest.raises(Conflict, match="removed meanwhile"):
            one.finish()
    assert not store.has_blob(DIGEST)


def test_an_upload_that_no_file_can_be_opened_for_is_storage_broken(uploads: Uploads) -> None:
    with uploads.open("key", DIGEST) as one:
        one.write(WEIGHTS[:10])
    with no_more_files():
        with pytest.raises(StorageBroken, match="too many"), uploads.open("key", DIGEST):
            pass
        with pytest.raises(StorageBroken, match="too many"), uploads.at_once("key", DIGEST):
            pass
        with pytest.raises(StorageBroken, match="too many"):
            uploads.discard("key", DIGEST)
    assert uploads.offset("key", DIGEST) == 10
