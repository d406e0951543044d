"""A store that several gateways share: an S3-compatible bucket, behind the local folder.

Every blob and manifest is put there before it counts as stored, and fetched into the local folder,
held against its digest, where it is needed. Credentials and endpoint come from where the AWS tools
look for them (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, an instance's role …), never from options.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from variants.errors import Invalid, NotFound, StorageBroken
from variants.silence import Silence

UNREACHABLE = "the artifact store cannot be reached"
TIMEOUTS = {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 3}}


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A file by its name in the store; `written_at` in seconds since 1970."""

    name: str
    size_bytes: int
    written_at: float


class Remote:
    """Files by name under `s3://bucket/prefix`. Every method may raise `StorageBroken`.

    Raises `Invalid` for another kind of address, or where the driver is not installed.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith("s3://") or not url.removeprefix("s3://").strip("/"):
            raise Invalid("store_url must be s3://bucket or s3://bucket/prefix", field="store_url")
        try:
            from s3fs import S3FileSystem
        except ImportError:
            raise Invalid(
                "store_url names a bucket: pip install 'gearshift[s3]'", field="store_url"
            ) from None
        self._root = url.removeprefix("s3://").strip("/")
        self._silence = Silence(StorageBroken, UNREACHABLE)
        self._files = S3FileSystem(
            use_listings_cache=False, skip_instance_cache=True, config_kwargs=TIMEOUTS
        )

    def put(self, source: Path, name: str) -> None:
        """Store a file; readers see it whole or not at all."""
        with _errors():
            self._files.put_file(str(source), self._at(name))

    def read(self, name: str) -> bytes:
        """A small file's bytes. Raises `NotFound`.

        While the store does not answer, one at a time waits for it, and the others are told at
        once: many of these are read in a row.
        """
        begun_s = time.monotonic()
        with self._silence.turn():
            try:
                with _errors(name):
                    found: bytes | None = self._files.cat_file(self._at(name))
            except NotFound:
                found = None  # which is an answer
            except StorageBroken:
                self._silence.begin(begun_s)
                raise
        if found is None:
            raise NotFound(f"the store has no {name}")
        return found

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file here. Raises `NotFound`."""
        with _errors(name):
            self._files.get_file(self._at(name), str(target))

    def size(self, name: str) -> int:
        """Bytes of a file. Raises `NotFound`."""
        with _errors(name):
            return int(self._files.info(self._at(name))["size"])

    def written_at(self, name: str) -> float:
        """When a file was written, in whole seconds since 1970. Raises `NotFound`."""
        with _errors(name):
            return float(self._files.info(self._at(name))["LastModified"].timestamp())

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with _errors():
            self._files.rm_file(self._at(name))

    def files(self) -> Iterator[RemoteFile]:
        """Every file."""
        with _errors():
            for path, found in self._files.find(self._root, detail=True).items():
                yield RemoteFile(
                    name=path.removeprefix(f"{self._root}/"),
                    size_bytes=found["size"],
                    written_at=found["LastModified"].timestamp(),
                )

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"


@contextmanager
def _errors(name: str = "") -> Iterator[None]:
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except FileNotFoundError:
        raise NotFound(f"the store has no {name}") from None
    except (OSError, BotoCoreError) as error:
        raise StorageBroken(UNREACHABLE) from error
