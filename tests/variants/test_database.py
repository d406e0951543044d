"""The database: migrations from every schema, what is refused, several processes at once."""

import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from tests import servers
from tests.models import tiny_spec
from tests.variants.test_registry import PROFILED, add
from variants import tables
from variants.audit import Audit
from variants.database import MIGRATIONS, Database, newest_schema
from variants.errors import GearshiftError, Invalid, NotFound, RegistryReadOnly, RegistryUnavailable
from variants.key_table import KeyTable
from variants.registry import Registry, _spec

FILE = "registry.sqlite3"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database lies, or will lie."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / FILE


def old(place: Path | str, schema: str) -> None:
    """A database of an older schema, with a model, two variants, their history and a key."""
    url = f"sqlite:///{place}" if isinstance(place, Path) else place
    if isinstance(place, Path):
        place.parent.mkdir(exist_ok=True)
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as db:
        config.attributes["connection"] = db
        command.upgrade(config, schema)
        spec = _spec.dump_json(tiny_spec()).decode()
        at = "2025-12-31 23:59:59.000000"
        for statement in (
            f"INSERT INTO models VALUES ('tiny', '{spec}', NULL, 'fp32', '{at}')",
            f"INSERT INTO variants VALUES ('tiny', 'fp32', '{'b' * 64}', '{'a' * 64}', "
            f"'active', 'built', '{at}')",
            f"INSERT INTO variants VALUES ('tiny', 'int8', NULL, '{'c' * 64}', "
            f"'failed', 'slow', '{at}')",
            "INSERT INTO history VALUES "
            f"(1, 'tiny', 'fp32', NULL, 'registered', 'build', 'x', '{at}'), "
            f"(2, 'tiny', 'int8', NULL, 'registered', 'build', 'x', '{at}'), "
            f"(3, 'tiny', 'fp32', 'registered', 'verified', 'key 1', 'y', '{at}')",
            f"INSERT INTO keys VALUES ('k1', 'shop', '{'f' * 64}', 'infer read', '{at}', NULL)",
        ):
            db.exec_driver_sql(statement)
    engine.dispose()


def integrity(path: Path) -> str:
    with closing(sqlite3.connect(path)) as db:
        found: str = db.execute("PRAGMA integrity_check").fetchone()[0]
        return found


# Schema


def test_the_tables_are_what_the_migrations_create(database: Database) -> None:
    with database.read() as db:
        context = MigrationContext.configure(db, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
        assert context.get_current_revision() == newest_schema()


def test_the_newest_migration_is_the_programs_schema() -> None:
    assert ScriptDirectory(str(MIGRATIONS)).get_current_head() == newest_schema()


def test_a_populated_database_of_the_first_schema_is_brought_up_to_date(
    place: Path | str,
) -> None:
    old(place, "0001")
    database = Database(place)
    registry, told = Registry(database), Audit(database)
    assert registry.model("tiny").reference == "fp32"
    assert registry.model("tiny").spec == tiny_spec()
    assert [(v.name, v.state, v.version) for v in registry.variants("tiny")] == [
        ("fp32", "active", 1),
        ("int8", "failed", 1),
    ]
    assert [
        (e.id, e.action, e.variant, e.old_state, e.new_state, e.actor) for e in told.after(0)
    ] == [
        (1, "variant.register", "fp32", None, "registered", "build"),
        (2, "variant.register", "int8", None, "registered", "build"),
        (3, "variant.move", "fp32", "registered", "verified", "key 1"),
    ]
    assert {entry.at for entry in told.after(0)} == {datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC)}
    (key,) = KeyTable(database).all()
    assert (key.id, key.scopes, key.version) == ("k1", {"infer", "read"}, 1)
    registry.move("tiny", "fp32", "draining", actor="test", reason="goes on")
    assert [e.id for e in told.of("tiny", "fp32")] == [1, 3, 4]
    with database.read() as db:
        assert compare_metadata(MigrationContext.configure(db), tables.metadata) == []
    database.close()


def test_an_upgrade_keeps_a_copy_of_what_was(path: Path) -> None:
    old(path, "0001")
    Database(path).close()
    copy = path.with_name(f"{FILE}.schema-0001")
    assert integrity(copy) == "ok"
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("SELECT count(*) FROM history").fetchone() == (3,)
        assert db.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    Database(path).close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    before = path.read_bytes()
    with pytest.raises(GearshiftError, match=re.escape("schema 9999, newer than")) as refusal:
        Database(path)
    assert "restore a backup made before it ran" in str(refusal.value)
    copy = path.with_name(f"{FILE}.schema-{newest_schema()}")
    copy.write_bytes(b"")
    with pytest.raises(GearshiftError, match=re.escape(str(copy))):
        Database(path)
    assert path.read_bytes() == before


def test_a_migration_that_fails_leaves_no_half_schema(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE keys (id)")  # the last table of the first migration
    with pytest.raises(Exception, match="already exists"):
        Database(path)
    with closing(sqlite3.connect(path)) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master")]
    assert names == ["keys"]


# Transactions


def test_the_file_keeps_what_was_acknowledged(path: Path) -> None:
    database = Database(path)
    Registry(database).put_model(tiny_spec(), None, actor="test")
    with database.read() as db:
        assert db.exec_driver_sql("PRAGMA synchronous").scalar_one() == 3
    database.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_reopened_database_knows_everything(place: Path | str) -> None:
    def known(database: Database) -> object:
        registry = Registry(database)
        return registry.models(), registry.variants("tiny"), list(Audit(database).after(0))

    database = Database(place)
    Registry(database).put_model(tiny_spec(), None, actor="test")
    add(Registry(database), "int8", (*PROFILED, "active"))
    Registry(database).set_reference("tiny", "int8", actor="test")
    before = known(database)
    database.close()
    again = Database(place)
    assert known(again) == before
    again.close()


def test_every_change_moves_the_counter_and_a_mere_write_does_not(database: Database) -> None:
    seen = [database.version()]
    Registry(database).put_model(tiny_spec(), None, actor="test")
    seen.append(database.version())
    add(Registry(database), "int8", ("verified",))
    seen.append(database.version())
    assert seen == sorted(set(seen))
    with database.write() as db:
        db.exec_driver_sql("UPDATE models SET version = version")
    assert database.version() == seen[-1]


def test_each_transaction_is_told_and_whether_the_database_did_it(path: Path) -> None:
    database = Database(path, timeout_s=0.01)
    told: list[tuple[str, bool]] = []
    database.on_done = lambda op, seconds: told.append((op, seconds is not None and seconds >= 0))
    registry = Registry(database)
    registry.put_model(tiny_spec(), None, actor="test")
    with database.write() as db:
        db.exec_driver_sql("UPDATE models SET version = version")
    with pytest.raises(NotFound):  # the caller's mistake, not the database's
        registry.set_reference("tiny", "none", actor="test")
    assert told == [("change", True), ("write", True)]
    del told[:]
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RegistryUnavailable):
            registry.put_model(tiny_spec(), None, actor="test")
        with pytest.raises(RegistryUnavailable):
            registry.models()
    assert told == [("change", False), ("read", False)]
    database.close()


OPENER = """
import sys
from pathlib import Path
from variants.database import Database
from variants.key_table import KeyTable, Secret

sys.stdin.readline()
place = sys.argv[1]
database = Database(Path(place) if place.startswith("/") else place)
KeyTable(database).add(
    id=sys.argv[2],
    name="",
    secret=Secret(hmac="", pepper=None),
    scopes=frozenset(),
    actor="test",
)
database.close()
"""


def test_processes_may_open_a_new_database_at_once(place: Path | str) -> None:
    names = ["a", "b", "c"]
    others = [
        subprocess.Popen([sys.executable, "-c", OPENER, place, name], stdin=subprocess.PIPE)
        for name in names
    ]
    for other in others:
        other.communicate(b"go\n")
    assert [other.returncode for other in others] == [0, 0, 0]
    database = Database(place)
    assert sorted(key.id for key in KeyTable(database).all()) == names
    database.close()


# A PostgreSQL server that is slow, read-only or gone


def test_every_wait_for_a_server_is_bounded(postgres: servers.Postgres) -> None:
    url = postgres.database()
    one, other = Database(url), Database(url, timeout_s=0.3)
    with one.write():
        start = time.monotonic()
        with pytest.raises(RegistryUnavailable, match="in time"), other.change():
            raise AssertionError("it had the lock")
        assert time.monotonic() - start < 2
        assert other.version() == one.version()  # readers wait for nobody
    with pytest.raises(RegistryUnavailable), other.read() as db:
        db.exec_driver_sql("SELECT pg_sleep(5)")
    with other.change():
        pass
    one.close()
    other.close()


def test_a_server_that_takes_no_changes_is_read_only_until_it_does(
    postgres: servers.Postgres,
) -> None:
    url = postgres.database()
    name = url.partition("@/")[2].partition("?")[0]
    database = Database(url)
    Registry(database).put_model(tiny_spec(), None, actor="test")
    postgres.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    database.close()  # what is connected keeps its own setting
    with pytest.raises(RegistryReadOnly):
        Registry(database).put_model(tiny_spec(), "e" * 64, actor="test")
    assert "read-only" in database.read_only
    assert Registry(database).model("tiny").evaluation_digest is None
    postgres.sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    database.close()
    Registry(database).put_model(tiny_spec(), "e" * 64, actor="test")
    assert database.read_only == ""
    database.close()


@pytest.mark.parametrize("url", ["mysql://host/name", "registry.sqlite3", "sqlite:///x"])
def test_another_kind_of_database_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match="postgresql://"):
        Database(url)


def test_a_server_that_is_not_there_is_told_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(RegistryUnavailable) as refusal:
        Database(f"postgresql://me:secret@/name?host={tmp_path}", timeout_s=0.5)
    assert "secret" not in f"{refusal.value} {refusal.value.__cause__}"
