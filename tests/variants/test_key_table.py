"""Keys as they are stored."""

from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from variants.database import Database
from variants.errors import NotFound, RegistryDamaged
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


@pytest.mark.parametrize("date", ["'2O26-01-31 00:00:00.000000'", "x'32303236'", "7"])
def test_a_key_that_was_damaged_is_told_as_such_by_changes_too(tmp_path: Path, date: str) -> None:
    database = Database(tmp_path / "registry.sqlite3")
    keys, secret = KeyTable(database), Secret(hmac="f" * 64, pepper=None)
    for id in ("k1", "k2"):
        keys.add(id=id, name="", secret=secret, scopes=frozenset({"admin"}), actor="test")
    with database.write() as db:
        db.exec_driver_sql(f"UPDATE keys SET created_at = {date} WHERE id = 'k2'")
    for act in (keys.all, lambda: keys.revoke("k1", actor="test")):
        with pytest.raises(RegistryDamaged):
            act()
    database.close()


def test_an_error_of_the_database_quotes_nothing_that_was_to_be_stored(database: Database) -> None:
    keys, secret = KeyTable(database), Secret(hmac="f" * 64, pepper="p")
    keys.add(id="k1", name="", secret=secret, scopes=frozenset(), actor="test")
    with pytest.raises(IntegrityError) as refusal:
        keys.add(id="k1", name="", secret=secret, scopes=frozenset(), actor="test")
    assert secret.hmac not in str(refusal.value)
