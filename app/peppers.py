"""The secret that turns keys into what is stored of them: at most two generations of it.

The newest one makes new keys; keys made under the one before are valid until it is dropped by the
next rotation, and are stored anew under the newest when they are next used. All gateways on one
database need the same peppers.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from variants.errors import Invalid
from variants.store import sync_folder

PEPPER_BYTES = 32
GENERATIONS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Peppers:
    """One or two peppers, newest first."""

    generations: tuple[bytes, ...]

    def hmacs(self, secret: str) -> tuple[str, ...]:
        """HMAC-SHA-256 (RFC 2104) of a key's secret under each pepper, newest first."""
        raw = secret.encode(errors="replace")
        return tuple(hmac.digest(pepper, raw, "sha256").hex() for pepper in self.generations)

    @property
    def ids(self) -> tuple[str, ...]:
        """What each pepper is called where it must not be shown, newest first."""
        return tuple(hashlib.sha256(pepper).hexdigest()[:12] for pepper in self.generations)


@dataclass(frozen=True, kw_only=True, slots=True)
class PepperSource:
    """Where the peppers come from: `file:PATH` or `env:NAME`.

    Either holds one or two peppers of 64 hexadecimal digits, separated by white space, newest
    first. A file may hold 32 raw bytes instead, and must be readable by its owner only.
    """

    kind: str
    place: str

    @classmethod
    def of(cls, option: str | None, folder: Path) -> "PepperSource":
        """The option `pepper`; by default a file in the data folder, made at the first use."""
        if option is None:
            own = cls(kind="file", place=str(folder / "pepper"))
            if not Path(own.place).exists():
                _publish(Path(own.place), _line((secrets.token_bytes(PEPPER_BYTES),)), new=True)
            return own
        kind, _, place = option.partition(":")
        if kind not in ("file", "env") or not place:
            raise Invalid(f"pepper is {option[:80]!r}; file:PATH or env:NAME", field="pepper")
        return cls(kind=kind, place=place)

    def read(self) -> Peppers:
        """The peppers as they are now. Raises `Invalid`, never with a pepper in its message."""
        if self.kind == "env":
            found = os.environ.get(self.place)
            if found is None:
                raise Invalid(f"environment variable {self.place} is not set", field="pepper")
            return _parsed(found.encode(), self.place)
        path = Path(self.place)
        try:
            if path.stat().st_mode & 0o077:
                message = f"{path} can be read by others; run: chmod 600 {path}"
                raise Invalid(message, field="pepper")
            return _parsed(path.read_bytes(), str(path))
        except OSError as error:
            raise Invalid(f"{path}: {error.strerror}", field="pepper") from error

    def mark(self) -> object:
        """Something that differs once the file has been written anew."""
        if self.kind == "env":
            return None
        found = Path(self.place).stat()
        return found.st_ino, found.st_mtime_ns

    def rotate(self) -> Peppers:
        """Put a new pepper before the present one, and drop the one before that.

        Raises `Invalid` where they come from the environment.
        """
        if self.kind == "env":
            raise Invalid(
                f"the peppers come from the environment variable {self.place}: put a new one "
                "(openssl rand -hex 32) and a space before the newest there, for every gateway",
                field="pepper",
            )
        present = self.read().generations
        peppers = (secrets.token_bytes(PEPPER_BYTES), *present)[:GENERATIONS]
        _publish(Path(self.place), _line(peppers), new=False)
        return Peppers(generations=peppers)


def _parsed(raw: bytes, place: str) -> Peppers:
    if len(raw) == PEPPER_BYTES:
        return Peppers(generations=(raw,))
    try:
        found = tuple(bytes.fromhex(word.decode()) for word in raw.split())
    except ValueError:
        found = ()
    if not 1 <= len(found) <= GENERATIONS or any(len(one) != PEPPER_BYTES for one in found):
        raise Invalid(
            f"{place} has {len(raw)} bytes that are not one or two peppers of "
            f"{2 * PEPPER_BYTES} hexadecimal digits; restore it from a backup, "
            "or remove it and make all keys anew",
            field="pepper",
        )
    return Peppers(generations=found)


def _line(peppers: tuple[bytes, ...]) -> bytes:
    return " ".join(pepper.hex() for pepper in peppers).encode() + b"\n"


def _publish(path: Path, content: bytes, *, new: bool) -> None:
    """Write it aside and put it in place whole; of two that are new, the first one wins."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".pepper-", delete=False) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside = Path(file.name)
    if new:
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
        aside.unlink()
    else:
        aside.replace(path)
    sync_folder(path.parent)
