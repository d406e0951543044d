"""Artifacts that somebody must have signed: the OpenSSF Model Signing format, by key, offline.

A signature is the JSON that `model_signing sign key` writes for the one file that an artifact is: a
Sigstore bundle with an in-toto statement of the file's digest. Needs the extra `signing`.
"""

import importlib.util
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from variants.errors import GearshiftError, Invalid
from variants.store import storage_errors


class SignatureRefused(GearshiftError):
    """The artifact is not signed as it must be."""


class SignatureRequired(SignatureRefused):
    """There is no signature."""


class SignatureInvalid(SignatureRefused):
    """The signature was made with another key, of another file, or is none at all."""


def check_key(key: Path) -> None:
    """Raise `Invalid` where signatures could not be checked with this public key (PEM)."""
    if importlib.util.find_spec("model_signing") is None:
        raise Invalid(
            "signing_key is set, and what checks signatures is not installed; "
            "run: pip install 'gearshift[signing]'",
            field="signing_key",
        )
    from model_signing import verifying

    try:
        verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (OSError, ValueError) as error:
        raise Invalid(
            f"{key} is no public key of an elliptic curve in PEM form: {error}", field="signing_key"
        ) from error


def check(path: Path, signature: Mapping[str, Any] | None, key: Path) -> None:
    """Raise `SignatureRefused` unless the file at `path` is the one that the key's owner signed.

    The library reads signatures from files only: `StorageFull` or `StorageBroken` where none can be
    written.
    """
    if signature is None:
        raise SignatureRequired(
            "this gateway takes signed artifacts only: send the signature in 'signature'",
        )
    from model_signing import verifying

    with storage_errors(), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "signature"
        file.write_text(json.dumps(signature), encoding="utf-8")
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
        try:
            verifier.verify(path, file)
        except Exception as error:  # whatever is wrong with it, it does not hold
            words = str(error).replace(str(path), "the artifact").replace(str(file), "signature")
            raise SignatureInvalid(
                "the signature does not hold for this artifact under this gateway's key: "
                f"{words[:300] or type(error).__name__}",
            ) from error
