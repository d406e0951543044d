"""Backups that are consistent while everything goes on, and checked when they come back.

    <backup>/registry.sqlite3     one state of the database
    <backup>/blobs/, manifests/   everything that it refers to
    <backup>/backup.json          the SHA-256 of each of them

Rows are copied before blobs, and blobs are published before rows refer to them: so whatever the
copied rows refer to is there. The pepper is never part of it: who has a backup has no key. The rows
of a PostgreSQL database are left to `pg_dump`, to be run before this.
"""

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from variants.data_folder import FILE, DataFolder, open_data_folder
from variants.database import Database, newest_schema
from variants.errors import Conflict, GearshiftError, Invalid
from variants.registry import Registry
from variants.retention import needed
from variants.sqlite_file import SqliteFile
from variants.store import sync_folder

INDEX = "backup.json"
_CHUNK = 1 << 20


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
    if isinstance(data.database.backend, SqliteFile):
        _copy_rows(data.database.backend.path, partial / FILE)
        digests[FILE] = _digest(partial / FILE)
        with closing(Database(partial / FILE)) as copied:
            names = _names(Registry(copied))
    else:
        names = _names(data.registry)
    for name, source in _sources(data, names):
        place = partial / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)
        digests[name] = _digest(place)
        if name.startswith("blobs/") and digests[name] != place.name:
            raise Invalid(f"blob {place.name} is damaged: its bytes have SHA-256 {digests[name]}")
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
        if (found := _digest(place)) != digest:
            raise Invalid(f"{backup} is damaged: {name} has SHA-256 {found}, not {digest}")
    return files


def restore(backup: Path, root: Path, *, force: bool) -> int:
    """Bring a checked backup into a data folder; returns how many files it had.

    A gateway that runs there notices. Raises `Conflict` where the folder has a registry and it is
    not to be replaced by `force`; then the old one is kept beside it.
    """
    files = check(backup)
    path = root / FILE
    if FILE in files and path.exists() and not force:
        raise Conflict(f"{path} exists: --force replaces it, and keeps it beside the new one")
    root.mkdir(parents=True, exist_ok=True)
    for name in files:
        if name != FILE:
            _bring(backup / name, root / name)
    if FILE in files:
        if path.exists():
            at = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
            shutil.copyfile(path, path.with_name(f"{FILE}.before-restore-{at}"))
        path.with_name(f"{FILE}-journal").unlink(missing_ok=True)  # it belongs to the old one
        _bring(backup / FILE, path)
        with open_data_folder(root) as data:  # checks it, and brings it to the present schema
            _hold(data)
    return len(files)


def _copy_rows(path: Path, target: Path) -> None:
    """SQLite's online backup: one state, whatever is written meanwhile."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)


def _names(registry: Registry) -> list[str]:
    wanted = needed(registry)
    blobs = [f"blobs/{digest[:2]}/{digest}" for digest in sorted(wanted.blobs - {""})]
    return blobs + [f"manifests/{id}.json" for id in sorted(wanted.manifests - {""})]


def _sources(data: DataFolder, names: list[str]) -> Iterator[tuple[str, Path]]:
    for name in names:
        path = data.store.path_of(name)
        if not path.is_file():
            raise GearshiftError(f"{name} is missing in the store, and the registry refers to it")
        yield name, path


def _hold(data: DataFolder) -> None:
    for name in _names(data.registry):
        if not data.store.path_of(name).is_file():
            raise Invalid(f"the backup has no {name}, though its registry refers to it")


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


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
