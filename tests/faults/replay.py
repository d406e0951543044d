"""What a disk holds after a power cut, by the record that `faults.c` keeps of its changes.

The strict reading of POSIX: a file's bytes are on the disk once it was synced, and its name once
its folder was, and that folder's own name too. What came later may be there in part or not at all:
any sectors of a write, any names.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 512
"""What a disk writes whole or not at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One change of the folder; `end` is where its record ends."""

    op: str
    path: str
    other: str
    offset: int
    data: bytes
    end: int


def changes(record: bytes) -> Iterator[Change]:
    """Every whole change of a record."""
    at = 0
    while (line_end := record.find(b"\n", at)) >= 0:
        op, length, offset, path, other = record[at:line_end].decode().split("\t")
        at = line_end + 1 + int(length)
        if at > len(record):
            return
        yield Change(
            op=op,
            path=path,
            other=other,
            offset=int(offset),
            data=record[line_end + 1 : at],
            end=at,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Edit:
    """A write at an offset, or a file's new size."""

    op: str
    offset: int
    data: bytes

    def apply(self, content: bytearray) -> None:
        if self.op != "write":
            if self.op == "truncate":
                del content[self.offset :]
            content.extend(bytes(max(0, self.offset - len(content))))
            return
        content.extend(bytes(max(0, self.offset - len(content))))
        content[self.offset : self.offset + len(self.data)] = self.data

    def parts(self) -> "Iterator[_Edit]":
        """What may reach the disk by itself."""
        at = 0
        while at < len(self.data):
            end = min(len(self.data), at + SECTOR_BYTES - (self.offset + at) % SECTOR_BYTES)
            yield _Edit(op=self.op, offset=self.offset + at, data=self.data[at:end])
            at = end
        if not self.data:
            yield self


@dataclass
class _File:
    """A file's bytes: as they are, as they are on the disk, and what came between."""

    now: bytearray
    synced: bytearray
    later: list[_Edit] = field(default_factory=list)
    kept: int = 0

    def apply(self, edit: _Edit) -> None:
        edit.apply(self.now)
        self.later.append(edit)

    @property
    def count(self) -> int:
        """The changes so far."""
        return self.kept + len(self.later)

    def sync(self, count: int) -> None:
        """The first `count` changes are on the disk."""
        number = max(0, count - self.kept)
        for edit in self.later[:number]:
            edit.apply(self.synced)
        del self.later[:number]
        self.kept += number

    def survived(self, chance: random.Random | None) -> bytes:
        """What was synced, and with `chance` some of what was not."""
        found = bytearray(self.synced)
        if chance is not None:
            for edit in self.later:
                whole = chance.random()  # a third is lost, a third is kept, a third is torn
                for part in edit.parts():
                    if whole < 1 / 3 or (whole < 2 / 3 and chance.random() < 0.5):
                        part.apply(found)
        return bytes(found)


@dataclass(frozen=True, slots=True)
class _Folder:
    """A name that is a folder's."""


@dataclass(frozen=True, slots=True)
class _Syncing:
    """What a sync that has begun will have on the disk."""

    file: _File | None
    count: int
    names: dict[str, "_File | _Folder"]
    number: int


class Disk:
    """A folder as it began, all of it on the disk, and then change by change."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._now: dict[str, _File | _Folder] = {}
        for path in folder.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                self._now[str(path)] = _File(bytearray(content), bytearray(content))
            elif path.is_dir():
                self._now[str(path)] = _Folder()
        self._synced = dict(self._now)
        self._syncing: dict[str, _Syncing] = {}
        self._names_synced: dict[str, int] = {}
        self._number = 0

    def change(self, change: Change) -> None:
        """Do as was recorded; what is outside of the folder does not concern it."""
        self._number += 1
        match change.op:
            case "create" if self._holds(change.path):
                self._now.setdefault(change.path, _File(bytearray(), bytearray()))
            case "mkdir" if self._holds(change.path):
                self._now[change.path] = _Folder()
            case "write" | "truncate" | "extend":
                if isinstance(file := self._now.get(change.path), _File):
                    file.apply(_Edit(op=change.op, offset=change.offset, data=change.data))
            case "rename" | "link":
                self._move(change)
            case "unlink" | "rmdir":
                self._now.pop(change.path, None)
            case "syncing":
                self._begin_sync(change)
            case "sync":
                self._end_sync(change)

    def _holds(self, path: str) -> bool:
        return Path(path).is_relative_to(self._folder)

    def _move(self, change: Change) -> None:
        """A file that was written unseen (by stdio) is not there under its new name either."""
        found = self._now.get(change.path)
        assert not isinstance(found, _Folder), change.path
        self._now.pop(change.other, None)
        if found is not None and self._holds(change.other):
            self._now[change.other] = found
        if change.op == "rename":
            self._now.pop(change.path, None)

    def _begin_sync(self, change: Change) -> None:
        file = self._now.get(change.path)
        self._syncing[change.other] = _Syncing(
            file=file if isinstance(file, _File) else None,
            count=file.count if isinstance(file, _File) else 0,
            names=_within(self._now, change.path),
            number=self._number,
        )

    def _end_sync(self, change: Change) -> None:
        begun = self._syncing.pop(change.other)
        if begun.file is not None:
            begun.file.sync(begun.count)
        elif begun.number > self._names_synced.get(change.path, 0):
            self._names_synced[change.path] = begun.number
            for path in _within(self._synced, change.path):
                del self._synced[path]
            self._synced.update(begun.names)

    def differs(self) -> set[str]:
        """The files that are not as the record says, by their paths in the folder.

        A faithful record leaves none, but for those that a program writes by stdio.
        """
        there = {str(path): path for path in self._folder.rglob("*") if path.is_file()}
        found = there.keys() ^ {p for p, node in self._now.items() if isinstance(node, _File)}
        for path in there.keys() - found:
            node = self._now[path]
            if isinstance(node, _File) and there[path].read_bytes() != node.now:
                found.add(path)
        return {str(Path(path).relative_to(self._folder)) for path in found}

    def write(self, target: Path, chance: random.Random | None) -> None:
        """Write to `target` what a power cut now would leave: the least, or with `chance` more."""
        names = dict(self._synced)
        if chance is not None:
            changed = {*self._now, *self._synced}
            changed = {p for p in changed if self._now.get(p) is not self._synced.get(p)}
            for path in sorted(changed):
                if chance.random() < 0.5:
                    if path in self._now:
                        names[path] = self._now[path]
                    else:
                        del names[path]
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted(names):
            node, place = names[path], target / Path(path).relative_to(self._folder)
            if not place.parent.exists():
                continue  # the folder's own name is lost
            if isinstance(node, _File):
                place.write_bytes(node.survived(chance))
                place.chmod(0o600)
            else:
                place.mkdir()


def _within(names: dict[str, _File | _Folder], folder: str) -> "dict[str, _File | _Folder]":
    return {path: node for path, node in names.items() if path.rpartition("/")[0] == folder}
