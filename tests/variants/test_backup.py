"""Backups taken while everything goes on, and what comes back; sweeping what nothing needs."""

import dataclasses
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import servers, world
from tests.faults.oracle import ABSENT, Notes, actual, check
from tests.faults.table import drilled
from tests.ladder import MODEL, Ladder
from variants import backup, retention
from variants.data_folder import FILE, DataFolder, open_data_folder
from variants.errors import Conflict, Invalid
from variants.lifecycle import State
from variants.store import Store, Stored

DAY_S = 86400.0


def bring_back(source: Path, root: Path, *, force: bool = False) -> None:
    backup.restore(source, root, Store(root), force=force, actor="test")


def work(root: Path, notes: Notes, stop: threading.Event, name: str) -> None:
    """Register variants and keys until told to stop."""
    with open_data_folder(root) as data:
        number = 0
        while not stop.is_set():
            number += 1
            variant = f"{name}-{number}"
            digest = data.store.put_bytes(variant.encode())
            notes.fact(f"blob {digest}", "here")
            notes.intent(f"variant {variant}", "registered", "failed")
            who = {"actor": "test", "reason": ""}
            data.registry.add_variant(model=MODEL, name=variant, artifact_digest=digest, **who)
            notes.intent(f"variant {variant}", "failed")
            data.registry.move(MODEL, variant, "failed", **who)
            notes.fact(f"variant {variant}", "failed")


def test_a_backup_under_writes_comes_back_as_one_state(ladder: Ladder, tmp_path: Path) -> None:
    moment = 0
    notes = Notes(lambda: moment)
    with open_data_folder(ladder.root) as data:
        for thing, state in actual(data).items():
            notes.fact(thing, state)
    stop = threading.Event()
    writers = [
        threading.Thread(target=work, args=(ladder.root, notes, stop, name)) for name in "ab"
    ]
    for writer in writers:
        writer.start()
    counts = []
    try:
        with open_data_folder(ladder.root) as data:
            for number in range(3):
                before, moment = moment, moment + 1  # what was acknowledged by now must be there
                backup.back_up(data, tmp_path / f"backup{number}")
                back = tmp_path / f"back{number}"
                bring_back(tmp_path / f"backup{number}", back)
                with open_data_folder(back) as copy:
                    counts.append(len(copy.registry.variants(MODEL)))
                    possible = dict(notes.possible(before))
                    for note in tuple(notes.all):
                        if note.at > before:
                            was = possible.get(note.thing, frozenset({ABSENT}))
                            possible[note.thing] = was | note.states
                    settled(copy)
                    check(copy, {t: s for t, s in possible.items() if not t.startswith("blob")})
                    assert not (back / "pepper").exists()
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert counts[0] < counts[-1]
    drilled("D10", "backups while variants are registered", {"backups": 3, "restored whole": 3})


def settled(data: DataFolder) -> None:
    """What a gateway's start does with variants between two states."""
    for variant in data.registry.unsettled(["registered"]):
        data.registry.move(variant.model, variant.name, "failed", actor="test", reason="")


def damage_registry(folder: Path) -> None:
    path = folder / FILE
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)


def lose_blob(folder: Path) -> None:
    next(path for path in (folder / "blobs").rglob("*") if path.is_file()).unlink()


def damage_manifest(folder: Path) -> None:
    next((folder / "manifests").iterdir()).write_text("{}")


def name_elsewhere(folder: Path) -> None:
    index = json.loads((folder / backup.INDEX).read_text())
    index["files"]["../outside"] = "0" * 64
    (folder / backup.INDEX).write_text(json.dumps(index))


def lose_index(folder: Path) -> None:
    (folder / backup.INDEX).unlink()


def be_newer(folder: Path) -> None:
    index = json.loads((folder / backup.INDEX).read_text())
    (folder / backup.INDEX).write_text(json.dumps({**index, "schema": "9999"}))


@pytest.mark.parametrize(
    "spoil",
    [damage_registry, lose_blob, damage_manifest, name_elsewhere, lose_index, be_newer],
    ids=lambda spoil: spoil.__name__,
)
def test_a_backup_that_is_not_whole_is_refused(
    ladder: Ladder, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    with open_data_folder(ladder.root) as data:
        backup.back_up(data, tmp_path / "backup")
    spoil(tmp_path / "backup")
    with pytest.raises(Invalid):
        bring_back(tmp_path / "backup", tmp_path / "back")
    assert not (tmp_path / "back" / FILE).exists()


def test_a_registry_is_replaced_by_force_only_and_kept(ladder: Ladder, tmp_path: Path) -> None:
    with open_data_folder(ladder.root) as data:
        backup.back_up(data, tmp_path / "backup")
        with pytest.raises(Conflict, match="exists"):
            backup.back_up(data, tmp_path / "backup")
        before = data.registry.variants(MODEL)
        data.registry.move(MODEL, "fast", "draining", actor="test", reason="")
    with pytest.raises(Conflict, match="--force"):
        bring_back(tmp_path / "backup", ladder.root)
    bring_back(tmp_path / "backup", ladder.root, force=True)
    with open_data_folder(ladder.root) as data:
        assert data.registry.variants(MODEL) == before
    assert len(list(ladder.root.glob(f"{FILE}.before-restore-*"))) == 1


# Sweeping


def age(data: DataFolder, digest: str, days: float) -> None:
    path = data.store.blob_path(digest)
    was = path.stat().st_mtime - days * DAY_S
    os.utime(path, (was, was))


def test_only_what_is_old_and_needed_by_nothing_is_swept(ladder: Ladder) -> None:
    with open_data_folder(ladder.root) as data:
        everything = {(file.kind, file.name) for file in data.store.files()}
        old, young, wanted = (data.store.put_bytes(name) for name in (b"old", b"young", b"wanted"))
        for file in data.store.files():
            if file.kind == "blob" and file.name != young:
                age(data, file.name, 8)
        data.store.touch(wanted)
        found = list(retention.unneeded(data, grace_s=7 * DAY_S))
        assert [file.name for file in found] == [old]
        assert data.store.has_blob(old)
        swept = retention.sweep(data, grace_s=7 * DAY_S, actor="test")
        assert [(file.name, file.size_bytes) for file in swept] == [(old, 3)]
        left = {(file.kind, file.name) for file in data.store.files()}
        assert left == everything | {("blob", young), ("blob", wanted)}


def test_a_retired_variants_artifact_is_swept_and_its_record_stays(ladder: Ladder) -> None:
    with open_data_folder(ladder.root) as data:
        digest = data.registry.variant(MODEL, "glacial").artifact_digest
        path: tuple[State, ...] = ("draining", "inactive", "retired")
        for state in path:
            assert not list(retention.unneeded(data, grace_s=-1))
            data.registry.move(MODEL, "glacial", state, actor="test", reason="")
        assert [file.name for file in retention.sweep(data, grace_s=-1, actor="test")] == [digest]
        record = data.registry.variant(MODEL, "glacial")
        assert record.manifest_id is not None
        assert data.store.manifest(record.manifest_id).variant == "glacial"


def retire(data: DataFolder, name: str) -> str:
    """Retire an active variant; returns its artifact's digest."""
    path: tuple[State, ...] = ("draining", "inactive", "retired")
    for state in path:
        data.registry.move(MODEL, name, state, actor="test", reason="")
    return data.registry.variant(MODEL, name).artifact_digest


def renew_evaluation(data: DataFolder) -> str:
    """Give the model another evaluation set; returns the old one's digest."""
    record = data.registry.model(MODEL)
    data.registry.put_model(record.spec, data.store.put_bytes(b"rows"), actor="test")
    assert record.evaluation_digest is not None
    return record.evaluation_digest


def test_what_was_let_go_of_has_the_grace_from_then_on(ladder: Ladder) -> None:
    with open_data_folder(ladder.root) as data:
        gone = {retire(data, "glacial"), renew_evaluation(data)}
        for digest in gone:
            age(data, digest, 30)
        assert not retention.sweep(data, grace_s=7 * DAY_S, actor="test")
        assert {file.name for file in retention.sweep(data, grace_s=0, actor="me")} == gone
        *_, last = data.audit.after(0)
        assert (last.actor, last.action) == ("me", "store.sweep")
        assert last.evidence is not None
        assert set(last.evidence["files"]) == {f"blob {name}" for name in gone}


def test_what_is_touched_after_the_walk_is_not_swept(ladder: Ladder) -> None:
    with open_data_folder(ladder.root) as data:
        digest = data.store.put_bytes(b"old")
        age(data, digest, 8)
        (found,) = retention.unneeded(data, grace_s=7 * DAY_S)
        assert data.store.touch(digest)
        assert not data.store.remove(found)
        assert data.store.has_blob(digest)
        age(data, digest, 8)
        (found,) = retention.unneeded(data, grace_s=7 * DAY_S)
        assert data.store.remove(found)
        assert not data.store.has_blob(digest)


class Busy(Store):
    """While the first file is removed, the other ones are registered."""

    def remove(self, file: Stored) -> bool:
        with open_data_folder(self.root) as data:
            for other in retention.unneeded(data, grace_s=7 * DAY_S):
                if other != file:
                    data.registry.add_variant(
                        model=MODEL,
                        name="late",
                        artifact_digest=other.name,
                        actor="test",
                        reason="",
                    )
        return super().remove(file)


def test_what_is_registered_while_others_are_removed_is_not_swept(ladder: Ladder) -> None:
    with open_data_folder(ladder.root) as data:
        both = {data.store.put_bytes(name) for name in (b"one", b"two")}
        for digest in both:
            age(data, digest, 8)
        busy = dataclasses.replace(data, store=Busy(ladder.root))
        (swept,) = retention.sweep(busy, grace_s=7 * DAY_S, actor="test")
        left = data.registry.variant(MODEL, "late").artifact_digest
        assert {swept.name, left} == both
        assert data.store.has_blob(left)


def test_rows_dumped_before_the_files_find_them_all(
    ladder: Ladder, tmp_path: Path, postgres: servers.Postgres
) -> None:
    """`pg_dump`, then changes, then `gearshift backup`; and a backup that came too late is told."""
    world.move_to_postgres(ladder.root, url := postgres.database())
    with open_data_folder(ladder.root, database_url=url) as data:
        gone = {retire(data, "glacial"), renew_evaluation(data)}
        backup.back_up(data, tmp_path / "backup")
        needed = data.registry.variant(MODEL, "fast").artifact_digest
    assert gone <= {path.name for path in (tmp_path / "backup" / "blobs").iterdir()}
    back = tmp_path / "back"
    backup.restore(
        tmp_path / "backup", back, Store(back), force=False, actor="test", database_url=url
    )
    index = json.loads((tmp_path / "backup" / backup.INDEX).read_text())
    del index["files"][f"blobs/{needed}"]
    (tmp_path / "backup" / backup.INDEX).write_text(json.dumps(index))
    late = tmp_path / "late"
    with pytest.raises(Invalid, match=f"neither in the backup nor in the store.*{needed}"):
        backup.restore(
            tmp_path / "backup", late, Store(late), force=False, actor="test", database_url=url
        )


def test_a_backup_needs_no_artifact_of_a_retired_variant(ladder: Ladder, tmp_path: Path) -> None:
    with open_data_folder(ladder.root) as data:
        for state in ("draining", "inactive", "retired"):
            data.registry.move(MODEL, "glacial", state, actor="test", reason="")
        retention.sweep(data, grace_s=-1, actor="test")
        backup.back_up(data, tmp_path / "backup")
    bring_back(tmp_path / "backup", tmp_path / "back")
    shutil.rmtree(tmp_path / "backup")
