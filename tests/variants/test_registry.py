"""The registry: migrations, immutability, history, keys, and several processes at once."""

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)
from sqlalchemy import create_engine

import variants
from tests.models import tiny_spec
from variants import tables
from variants.errors import Conflict, GearshiftError, NotFound
from variants.lifecycle import STATES, TRANSITIONS, State
from variants.registry import SCHEMA_REVISION, Registry

PROFILED: tuple[State, ...] = ("verified", "profiled")


def database(registry_path: Path) -> Path:
    return registry_path / "data" / "registry.sqlite3"


def add(registry: Registry, name: str, states: tuple[State, ...] = ()) -> None:
    registry.add_variant(
        model="tiny", name=name, artifact_digest="a" * 64, actor="test", reason="built"
    )
    for state in states:
        registry.move("tiny", name, state, actor="test", reason=f"to {state}")


@pytest.fixture
def tiny(registry: Registry) -> Registry:
    """A registry with the model `tiny`."""
    registry.put_model(tiny_spec(), None)
    return registry


# Schema


def test_the_tables_are_what_the_migrations_create(registry: Registry, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{database(tmp_path)}")
    with engine.connect() as db:
        context = MigrationContext.configure(db, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
        assert context.get_current_revision() == SCHEMA_REVISION
    engine.dispose()


def test_the_newest_migration_is_the_programs_schema() -> None:
    folder = Path(variants.__file__).parent / "migrations"
    assert ScriptDirectory(str(folder)).get_current_head() == SCHEMA_REVISION


def test_the_database_keeps_what_was_acknowledged(registry: Registry, tmp_path: Path) -> None:
    registry.put_model(tiny_spec(), None)
    with sqlite3.connect(database(tmp_path)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_a_reopened_registry_knows_everything(tiny: Registry, tmp_path: Path) -> None:
    add(tiny, "int8", (*PROFILED, "active"))
    tiny.set_reference("tiny", "int8")
    before = (tiny.models(), tiny.variants("tiny"), tiny.history("tiny", "int8"))
    tiny.close()
    again = Registry(database(tmp_path))
    assert (again.models(), again.variants("tiny"), again.history("tiny", "int8")) == before
    again.close()


def test_a_newer_schema_is_refused_and_left_alone(registry: Registry, tmp_path: Path) -> None:
    registry.close()
    with sqlite3.connect(database(tmp_path)) as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    db.close()
    before = database(tmp_path).read_bytes()
    with pytest.raises(GearshiftError, match=re.escape("schema 9999, newer than")):
        Registry(database(tmp_path))
    assert database(tmp_path).read_bytes() == before


def test_a_migration_that_fails_leaves_no_half_schema(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE keys (id)")  # the last table of the first migration
    db.close()
    with pytest.raises(Exception, match="already exists"):
        Registry(path)
    with sqlite3.connect(path) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master")]
    db.close()
    assert names == ["keys"]


OPENER = """
import sys
from pathlib import Path
from variants.registry import Registry

sys.stdin.readline()
registry = Registry(Path(sys.argv[1]))
registry.add_key(id=sys.argv[2], name="", secret_hmac="", scopes=frozenset())
registry.close()
"""


def test_processes_may_open_a_new_registry_at_once(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    names = ["a", "b", "c"]
    others = [
        subprocess.Popen([sys.executable, "-c", OPENER, path, name], stdin=subprocess.PIPE)
        for name in names
    ]
    for other in others:
        other.communicate(b"go\n")
    assert [other.returncode for other in others] == [0, 0, 0]
    registry = Registry(path)
    assert sorted(key.id for key in registry.api_keys()) == names
    registry.close()


# Models


def test_a_model_keeps_its_promise_but_may_renew_its_evaluation_set(tiny: Registry) -> None:
    tiny.put_model(tiny_spec(), "e" * 64)
    assert tiny.model("tiny").evaluation_digest == "e" * 64
    assert tiny.model("tiny").spec == tiny_spec()
    assert [record.spec.name for record in tiny.models()] == ["tiny"]


def test_a_model_that_promises_something_else_is_a_conflict(tiny: Registry) -> None:
    other = tiny_spec()
    changed = type(other)(
        name="tiny", task="tensors", inputs=other.inputs, outputs=other.outputs, labels=()
    )
    with pytest.raises(Conflict, match="choose another name"):
        tiny.put_model(changed, None)
    assert tiny.model("tiny").spec == other


def test_only_an_active_variant_can_be_the_reference(tiny: Registry) -> None:
    add(tiny, "fp32", PROFILED)
    with pytest.raises(Conflict, match="only an active variant"):
        tiny.set_reference("tiny", "fp32")
    tiny.move("tiny", "fp32", "active", actor="test", reason="")
    tiny.set_reference("tiny", "fp32")
    assert tiny.model("tiny").reference == "fp32"


# Variants


def test_a_variants_name_is_taken_for_ever(tiny: Registry) -> None:
    add(tiny, "int8", ("failed",))
    with pytest.raises(Conflict, match="immutable"):
        add(tiny, "int8")
    assert tiny.variant("tiny", "int8").state == "failed"


def test_history_tells_who_moved_what_and_why(tiny: Registry) -> None:
    add(tiny, "int8")
    tiny.move("tiny", "int8", "verified", actor="key gs_1", reason="loads")
    tiny.move("tiny", "int8", "failed", actor="build", reason="accuracy below the gate")
    told = [(c.old_state, c.new_state, c.actor, c.reason) for c in tiny.history("tiny", "int8")]
    assert told == [
        (None, "registered", "test", "built"),
        ("registered", "verified", "key gs_1", "loads"),
        ("verified", "failed", "build", "accuracy below the gate"),
    ]


def test_a_refused_move_is_not_recorded(tiny: Registry) -> None:
    add(tiny, "int8")
    with pytest.raises(Conflict):
        tiny.move("tiny", "int8", "active", actor="test", reason="too early")
    assert tiny.variant("tiny", "int8").state == "registered"
    assert len(tiny.history("tiny", "int8")) == 1


def test_the_manifest_is_set_when_it_is_known_and_then_kept(tiny: Registry) -> None:
    add(tiny, "int8", ("verified",))
    assert tiny.variant("tiny", "int8").manifest_id is None
    tiny.move("tiny", "int8", "profiled", actor="test", reason="", manifest_id="b" * 64)
    tiny.move("tiny", "int8", "active", actor="test", reason="")
    assert tiny.variant("tiny", "int8").manifest_id == "b" * 64


def test_what_does_not_exist_is_not_found(tiny: Registry) -> None:
    for call in (
        lambda: tiny.model("none"),
        lambda: tiny.variant("tiny", "none"),
        lambda: tiny.variant("none", "int8"),
        lambda: tiny.set_reference("tiny", "none"),
        lambda: tiny.move("tiny", "none", "verified", actor="", reason=""),
        lambda: tiny.add_variant(
            model="none", name="int8", artifact_digest="a" * 64, actor="", reason=""
        ),
        lambda: tiny.revoke_key("none"),
    ):
        with pytest.raises(NotFound):
            call()


# Keys


def test_a_key_is_kept_without_its_secret_and_ends_once(registry: Registry) -> None:
    registry.add_key(
        id="k1", name="laptop", secret_hmac="f" * 64, scopes=frozenset({"read", "infer"})
    )
    (key,) = registry.api_keys()
    assert (key.id, key.name, key.scopes) == ("k1", "laptop", {"infer", "read"})
    assert key.revoked_at is None
    registry.revoke_key("k1")
    (key,) = registry.api_keys()
    assert key.revoked_at is not None
    with pytest.raises(NotFound):
        registry.revoke_key("k1")


# Any sequence of moves


class RegistryMachine(RuleBasedStateMachine):
    """Random registrations and moves against a dictionary, reopening now and then."""

    folder: pytest.TempPathFactory
    names = Bundle("names")

    @initialize()
    def start(self) -> None:
        self.path = Path(self.folder.mktemp("registry")) / "registry.sqlite3"
        self.registry = Registry(self.path)
        self.registry.put_model(tiny_spec(), None)
        self.states: dict[str, State] = {}
        self.changes: dict[str, int] = {}

    @rule(target=names, name=st.from_regex(r"[a-c][0-9]", fullmatch=True))
    def register(self, name: str) -> str:
        if name in self.states:
            with pytest.raises(Conflict):
                add(self.registry, name)
        else:
            add(self.registry, name)
            self.states[name], self.changes[name] = "registered", 1
        return name

    @rule(name=names, state=st.sampled_from(STATES))
    def move(self, name: str, state: State) -> None:
        if state in TRANSITIONS[self.states[name]]:
            self.registry.move("tiny", name, state, actor="m", reason="")
            self.states[name] = state
            self.changes[name] += 1
        else:
            with pytest.raises(Conflict):
                self.registry.move("tiny", name, state, actor="m", reason="")

    @rule(name=consumes(names))
    def reopen(self, name: str) -> None:
        del name
        self.registry.close()
        self.registry = Registry(self.path)

    @invariant()
    def registry_equals_the_dictionary(self) -> None:
        if not hasattr(self, "registry"):
            return
        found = {variant.name: variant.state for variant in self.registry.variants("tiny")}
        assert found == self.states
        for name, changes in self.changes.items():
            history = self.registry.history("tiny", name)
            assert len(history) == changes
            assert history[-1].new_state == self.states[name]

    def teardown(self) -> None:
        if hasattr(self, "registry"):
            self.registry.close()


def test_any_sequence_of_moves_agrees_with_the_table(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    class Machine(RegistryMachine):
        folder = tmp_path_factory

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=8, stateful_step_count=15, deadline=None)
    )
