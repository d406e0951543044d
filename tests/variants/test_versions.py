"""Versions of rows: claimed by exactly one of those who saw the same, on either database."""

from concurrent.futures import ThreadPoolExecutor

from tests import models
from variants import versions
from variants.database import Database
from variants.registry import Registry
from variants.versions import Resource

ROUNDS = 10
MODEL = Resource(kind="model", names=(("name", "tiny"),))


def test_one_of_many_at_once_wins_a_version(database: Database) -> None:
    Registry(database).put_model(models.tiny_spec(), None, actor="test")
    with ThreadPoolExecutor(4) as pool:
        for _ in range(ROUNDS):
            known = versions.version(database, MODEL)
            assert known is not None
            claims = [
                pool.submit(versions.claim, database, MODEL, frozenset({known})) for _ in range(4)
            ]
            assert {claim.result() for claim in claims} == {None, known + 1}
            assert sum(claim.result() is not None for claim in claims) == 1
            assert versions.version(database, MODEL) == known + 1


def test_any_version_may_be_asked_for_and_nothing_that_is_not_there(database: Database) -> None:
    assert versions.version(database, MODEL) is None
    assert not versions.claim(database, MODEL, None)
    Registry(database).put_model(models.tiny_spec(), None, actor="test")
    assert versions.claim(database, MODEL, None)
    assert not versions.claim(database, MODEL, frozenset())
    assert versions.version(database, MODEL) == 2
