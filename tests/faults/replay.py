"""What a disk holds after a power cut, by the record that `faults.c` keeps of its changes.

The strict reading of POSIX: a file's bytes are on the disk once it was synced, and its name once
its folder was. What came later may be there in part or not at all.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


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


@dataclass
class _File:
    now: bytearray
    synced: bytes
    later: list[tuple[int, bytes | None]] = field(default_factory=list)

    def apply(self, offset: int, data: bytes | None) -> None:
        _apply(self.now, offset, data)
        self.later.append((offset, data))

    def sync(self) -> None:
        self.synced = bytes(self.now)
        self.later.clear()

    def survived(self, chance: random.Random | None) -> bytes:
        """What was synced, and with `chance` some of what was not."""
        if chance is None:
            return self.synced
        found = bytearray(self.synced)
        for offset, data in self.later:
            if chance.random() < 0.5:
                _apply(found, offset, data)
        return bytes(found)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    """Write at an offset, or truncate to it."""
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


class Disk:
    """A folder as it began, and then change by change."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._now: dict[str, _File] = {}
        for path in folder.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                self._now[str(path)] = _File(bytearray(content), content)
        self._synced = dict(self._now)

    def change(self, change: Change) -> None:
        """Do as was recorded."""
        match change.op:
            case "create":
                self._now[change.path] = _File(bytearray(), b"")
            case "write":
                self._now[change.path].apply(change.offset, change.data)
            case "truncate":
                self._now[change.path].apply(change.offset, None)
            case "rename":
                self._now[change.other] = self._now.pop(change.path)
            case "unlink":
                self._now.pop(change.path, None)
            case "sync" if change.path in self._now:
                self._now[change.path].sync()
            case "sync":
                self._sync_names(change.path)

    def _sync_names(self, folder: str) -> None:
        for names in (self._now, self._synced):
            for path in [p for p in names if str(Path(p).parent) == folder]:
                if path in self._now:
                    self._synced[path] = self._now[path]
                else:
                    del self._synced[path]

    def write(self, target: Path, chance: random.Random | None) -> None:
        """Write to `target` what a power cut now would leave: the least, or with `chance` more."""
        names = dict(self._synced)
        if chance is not None:
            for path in self._now.keys() ^ self._synced.keys():
                if chance.random() < 0.5:
                    if path in self._now:
                        names[path] = self._now[path]
                    else:
                        del names[path]
        for folder in ("blobs", "manifests", "incoming"):
            (target / folder).mkdir(parents=True, exist_ok=True)
        for path, file in names.items():
            place = target / Path(path).relative_to(self._folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.survived(chance))
            place.chmod(0o600)
