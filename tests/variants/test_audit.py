"""The audit: every admin change leaves one line, and no line can be changed or removed."""

import json

import pytest
from sqlalchemy import delete, update
from sqlalchemy.exc import DBAPIError

from tests.models import tiny_spec
from tests.variants.test_registry import PROFILED, add
from variants import audit, tables
from variants.audit import LATEST, MAX_EVIDENCE_BYTES, PAGE, Audit, json_line
from variants.database import Database
from variants.errors import Conflict, Invalid
from variants.key_table import KeyTable, Secret
from variants.registry import Registry


def test_every_admin_change_leaves_a_line(database: Database) -> None:
    registry, keys = Registry(database), KeyTable(database)
    registry.put_model(tiny_spec(), None, actor="build")
    registry.put_model(tiny_spec(), "e" * 64, actor="build")
    add(registry, "fp32", (*PROFILED, "active"))
    registry.set_reference("tiny", "fp32", actor="key 1 (ops)")
    keys.add(
        id="k1",
        name="laptop",
        secret=Secret(hmac="f" * 64, pepper=None),
        scopes=frozenset({"read"}),
        actor="ops",
    )
    keys.revoke("k1", actor="ops")
    told = [(line.action, line.variant, line.actor) for line in Audit(database).after(0)]
    assert told == [
        ("model.create", None, "build"),
        ("model.evaluation", None, "build"),
        ("variant.register", "fp32", "test"),
        *[("variant.move", "fp32", "test")] * 3,
        ("model.reference", "fp32", "key 1 (ops)"),
        ("key.create", None, "ops"),
        ("key.revoke", None, "ops"),
    ]
    assert "f" * 64 not in str(list(Audit(database).after(0)))


def test_a_change_that_fails_leaves_none(database: Database) -> None:
    registry = Registry(database)
    registry.put_model(tiny_spec(), None, actor="test")
    add(registry, "int8")
    before, version = list(Audit(database).after(0)), database.version()
    with pytest.raises(Conflict):
        add(registry, "int8")
    with pytest.raises(Conflict):
        registry.move("tiny", "int8", "active", actor="test", reason="")
    assert list(Audit(database).after(0)) == before
    assert database.version() == version


def test_a_line_can_be_neither_changed_nor_removed(database: Database) -> None:
    with database.change() as db:
        audit.record(db, actor="a", action="test", reason="")
    for statement in (update(tables.audit).values(actor="b"), delete(tables.audit)):
        with pytest.raises(DBAPIError, match="append-only"), database.change() as db:
            db.execute(statement)
    assert [line.actor for line in Audit(database).after(0)] == ["a"]


def test_a_long_history_comes_in_pages_and_its_end_alone(database: Database) -> None:
    registry = Registry(database)
    registry.put_model(tiny_spec(), None, actor="test")
    add(registry, "int8", PROFILED)
    with database.change() as db:
        for number in range(PAGE):
            audit.record(
                db, actor="a", action="test", reason=str(number), model="tiny", variant="int8"
            )
    found = Audit(database)
    first = found.of("tiny", "int8")
    rest = found.of("tiny", "int8", after=first[-1].id)
    assert len(first) == PAGE and len(rest) == 1 + len(PROFILED)
    assert found.latest("tiny", "int8") == (*first, *rest)[-LATEST:]


def test_evidence_comes_back_as_it_was_and_is_bounded(database: Database) -> None:
    evidence = {"agreement": 0.993, "rows": 2000, "why": "größer"}
    with database.change() as db:
        audit.record(db, actor="a", action="test", reason="", evidence=evidence)
    (line,) = Audit(database).after(0)
    assert line.evidence == evidence
    with pytest.raises(Invalid, match="bytes") as refusal, database.change() as db:
        audit.record(
            db, actor="a", action="test", reason="", evidence={"x": "x" * MAX_EVIDENCE_BYTES}
        )
    assert refusal.value.field == "evidence"
    assert len(list(Audit(database).after(0))) == 1


def test_the_export_goes_on_where_it_ended(database: Database) -> None:
    with database.change() as db:
        for number in range(PAGE + 3):
            audit.record(db, actor="a", action="test", reason=str(number))
    lines = [json.loads(json_line(line)) for line in Audit(database).after(0)]
    assert [line["reason"] for line in lines] == [str(n) for n in range(PAGE + 3)]
    assert [line.id for line in Audit(database).after(lines[-3]["id"])] == [
        line["id"] for line in lines[-2:]
    ]
