"""The SHA-256 of a file, as the store names blobs by it."""

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """In lower-case hex; read in pieces, whatever its size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
