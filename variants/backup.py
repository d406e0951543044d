"""Backups that are consistent while everything goes on, and checked when they come back.

    <backup>/registry.sqlite3     one state of the database
    <backup>/blobs/<digest>       everything that it refers to
    <backup>/manifests/<id>
    <backup>/backup.json          the SHA-256 of each of them

Rows are copied before blobs, and blobs are published before rows refer to them: so whatever the
copied rows refer to is there. The pepper is never part of it: who has a backup has no key. The rows
of a PostgreSQL database are left to `pg_dump`, to be run before this, within `DUMPED_S`.
"""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from variants import manifest as manifests
from variants.audit import Audit
from variants.data_folder import FILE, DataFolder
from variants.database import Database, newest_schema
from variants.digest import file_sha256
from variants.errors import Conflict, GearshiftError, Invalid
from variants.registry import Registry
from variants.retention import let_go_lately, needed
from variants.sqlite_file import SqliteFile
from variants.store import Store, sync_folder

DUMPED_S = 24 * 3600.0
"""What rows referred to so long ago is part of a backup that rows were dumped for."""

INDEX, BLOBS, MANIFESTS = "backup.json", "blobs", "manifests"


def back_up(data: DataFolder, target: Path) -> int:
    """Write a backup to a folder that does not exist; returns how many files it has.

    Raises `Conflict` where the folder exists, `Invalid` for a damaged file.
    """
    if target.exists():
        raise Conflict(f"{target} exists: name a new folder")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    digests: dict[str, str] = {}
    lately: Iterable[str] = ()
    if isinstance(data.database.backend, SqliteFile):
        _copy_rows(data.database.backend.path, partial / FILE)
        digests[FILE] = file_sha256(partial / FILE)
        with closing(Database(partial / FILE)) as copied:
            wanted = needed(Registry(copied))
    else:
        wanted = needed(data.registry)
        lately = filter(data.store.has_blob, let_go_lately(data.registry, DUMPED_S))
    for digest in sorted(wanted.blobs.union(lately) - {""}):
        _copy(data.store.blob_path(digest), partial / BLOBS / digest)
        digests[f"{BLOBS}/{digest}"] = found = file_sha256(partial / BLOBS / digest)
        if found != digest:
            raise Invalid(f"blob {digest} is damaged: its bytes have SHA-256 {found}")
    for id in sorted(wanted.manifests - {""}):
        place = partial / MANIFESTS / id
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(data.store.manifest_bytes(id))
        digests[f"{MANIFESTS}/{id}"] = file_sha256(place)
    index = {
        "schema": newest_schema(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": digests,
    }
    (partial / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    _keep(partial)
    partial.rename(target)
    sync_folder(target.parent)
    return len(digests)


def check(backup: Path) -> dict[str, str]:
    """The files of a backup with their digests, once each was held against it.

    Raises `Invalid` for a backup that is not whole, or of a newer schema than this program's.
    """
    try:
        index = json.loads((backup / INDEX).read_text(encoding="utf-8"))
        schema, files = str(index["schema"]), dict[str, str](index["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Invalid(f"{backup} is no backup: its {INDEX} cannot be read") from error
    if schema > newest_schema():
        raise Invalid(f"{backup} has schema {schema}, newer than this program's {newest_schema()}")
    for name, digest in files.items():
        place = (backup / name).resolve()
        if not place.is_relative_to(backup.resolve()) or not place.is_file():
            raise Invalid(f"{backup} is not whole: {name} is missing")
        if (found := file_sha256(place)) != digest:
            raise Invalid(f"{backup} is damaged: {name} has SHA-256 {found}, not {digest}")
    return files


def restore(
    backup: Path,
    root: Path,
    store: Store,
    *,
    force: bool,
    actor: str,
    database_url: str | None = None,
) -> int:
    """Bring a checked backup into a data folder and its store; returns how many files it had.

    A gateway that runs there notices. Raises `Conflict` where the folder has a registry and it is
    not to be replaced by `force`, by which the old one is kept beside it; and `Invalid` where the
    rows, or those of a backup without rows in the database of `database_url`, refer to what is
    neither in the backup nor in the store.
    """
    files = check(backup)
    path = root / FILE
    if FILE in files and path.exists() and not force:
        raise Conflict(f"{path} exists: --force replaces it, and keeps it beside the new one")
    for name in files:
        kind, _, last = name.partition("/")
        if kind == BLOBS and store.put_file(backup / name).digest != last:
            raise Invalid(f"{backup} is damaged: {name} has another digest")
        if kind == MANIFESTS:
            store.put_manifest(manifests.loads((backup / name).read_bytes()))
    if FILE in files:
        if path.exists():
            at = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
            shutil.copyfile(path, path.with_name(f"{FILE}.before-restore-{at}"))
        path.with_name(f"{FILE}-journal").unlink(missing_ok=True)  # it belongs to the old one
        _bring(backup / FILE, path)
    rows = path if FILE in files else database_url
    if rows is not None:
        with closing(Database(rows)) as database:  # checks it, brings it to the present schema
            _hold(Registry(database), store)
            which = {"files": len(files), "index_sha256": file_sha256(backup / INDEX)}
            Audit(database).add(actor=actor, action="store.restore", evidence=which)
    return len(files)


def _copy_rows(path: Path, target: Path) -> None:
    """SQLite's online backup: one state, whatever is written meanwhile."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        raise GearshiftError(
            f"{source.name} is missing in the store, and the registry refers to it"
        ) from None


def _hold(registry: Registry, store: Store) -> None:
    wanted = needed(registry)
    missing = [digest for digest in sorted(wanted.blobs - {""}) if not store.has_blob(digest)]
    if missing:
        raise Invalid(
            f"the rows refer to {len(missing)} blobs that are neither in the backup nor in the "
            f"store, such as {missing[0]}"
        )
    for id in wanted.manifests - {""}:
        store.manifest(id)


def _bring(source: Path, target: Path) -> None:
    """Put a file in its place at once, and so that a power cut cannot undo it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{target.name}.partial")
    shutil.copyfile(source, aside)
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(target)
    sync_folder(target.parent)


def _keep(folder: Path) -> None:
    """Have everything under a folder on the disk."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)
