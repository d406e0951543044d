"""Public keys that signatures could never be checked with are refused at the start."""

from pathlib import Path

import pytest

from app import signing
from variants.errors import Invalid

pytest.importorskip("model_signing")


@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"-----BEGIN PUBLIC KEY-----\nAA=="])
def test_what_is_no_public_key_stops_the_start_with_its_reason(
    tmp_path: Path, content: bytes | None
) -> None:
    key = tmp_path / "key.pub"
    if content is not None:
        key.write_bytes(content)
    with pytest.raises(Invalid, match="is no public key of an elliptic curve in PEM form") as error:
        signing.check_key(key)
    assert error.value.field == "signing_key"
