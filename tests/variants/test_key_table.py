"""Keys as they are stored."""

import pytest

from variants.database import Database
from variants.errors import NotFound
from variants.key_table import KeyTable, Secret


def test_a_key_is_kept_without_its_secret_and_ends_once(database: Database) -> None:
    keys = KeyTable(database)
    keys.add(
        id="k1",
        name="laptop",
        secret=Secret(hmac="f" * 64, pepper="p"),
        scopes=frozenset({"read", "infer"}),
        actor="test",
    )
    (key,) = keys.all()
    assert (key.id, key.name, key.scopes) == ("k1", "laptop", {"infer", "read"})
    assert (key.revoked_at, key.version) == (None, 1)
    keys.revoke("k1", actor="test")
    (key,) = keys.all()
    assert key.revoked_at is not None
    assert key.version == 2
    for id in ("k1", "none"):
        with pytest.raises(NotFound):
            keys.revoke(id, actor="test")
