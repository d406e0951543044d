"""The registry: immutability, history, and any sequence of moves."""

from pathlib import Path

import pytest
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

from tests.models import tiny_spec
from variants import versions
from variants.audit import Audit, AuditEntry
from variants.database import Database
from variants.errors import Conflict, NotFound, Outdated
from variants.lifecycle import CANDIDATES, STATES, TRANSITIONS, State
from variants.registry import Registry
from variants.versions import Resource

PROFILED: tuple[State, ...] = ("verified", "profiled")


def add(registry: Registry, name: str, states: tuple[State, ...] = ()) -> None:
    registry.add_variant(
        model="tiny", name=name, artifact_digest="a" * 64, actor="test", reason="built"
    )
    for state in states:
        registry.move("tiny", name, state, actor="test", reason=f"to {state}")


def history(database: Database, name: str) -> tuple[AuditEntry, ...]:
    return Audit(database).of("tiny", name)


@pytest.fixture
def tiny(database: Database) -> Registry:
    """A registry with the model `tiny`."""
    registry = Registry(database)
    registry.put_model(tiny_spec(), None, actor="test")
    return registry


# Models


def test_a_model_keeps_its_promise_but_may_renew_its_evaluation_set(tiny: Registry) -> None:
    tiny.put_model(tiny_spec(), "e" * 64, actor="test")
    assert tiny.model("tiny").evaluation_digest == "e" * 64
    assert tiny.model("tiny").spec == tiny_spec()
    assert [record.spec.name for record in tiny.models()] == ["tiny"]


def test_a_model_that_promises_something_else_is_a_conflict(tiny: Registry) -> None:
    other = tiny_spec()
    changed = type(other)(
        name="tiny", task="tensors", inputs=other.inputs, outputs=other.outputs, labels=()
    )
    with pytest.raises(Conflict, match="choose another name"):
        tiny.put_model(changed, None, actor="test")
    assert tiny.model("tiny").spec == other


def test_only_an_active_variant_can_be_the_reference(tiny: Registry) -> None:
    add(tiny, "fp32", PROFILED)
    with pytest.raises(Conflict, match="only an active variant"):
        tiny.set_reference("tiny", "fp32", actor="test")
    tiny.move("tiny", "fp32", "active", actor="test", reason="")
    tiny.set_reference("tiny", "fp32", actor="test")
    assert tiny.model("tiny").reference == "fp32"


# Variants


def test_a_variants_name_is_taken_for_ever(tiny: Registry) -> None:
    add(tiny, "int8", ("failed",))
    with pytest.raises(Conflict, match="immutable"):
        add(tiny, "int8")
    assert tiny.variant("tiny", "int8").state == "failed"


def test_history_tells_who_moved_what_and_why(database: Database, tiny: Registry) -> None:
    add(tiny, "int8")
    tiny.move("tiny", "int8", "verified", actor="key gs_1", reason="loads")
    tiny.move("tiny", "int8", "failed", actor="build", reason="accuracy below the gate")
    told = [(c.old_state, c.new_state, c.actor, c.reason) for c in history(database, "int8")]
    assert told == [
        (None, "registered", "test", "built"),
        ("registered", "verified", "key gs_1", "loads"),
        ("verified", "failed", "build", "accuracy below the gate"),
    ]


def test_a_refused_move_is_not_recorded(database: Database, tiny: Registry) -> None:
    add(tiny, "int8")
    with pytest.raises(Conflict):
        tiny.move("tiny", "int8", "active", actor="test", reason="too early")
    assert tiny.variant("tiny", "int8").state == "registered"
    assert len(history(database, "int8")) == 1


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
        lambda: tiny.set_reference("tiny", "none", actor="test"),
        lambda: tiny.move("tiny", "none", "verified", actor="", reason=""),
        lambda: tiny.add_variant(
            model="none", name="int8", artifact_digest="a" * 64, actor="", reason=""
        ),
    ):
        with pytest.raises(NotFound):
            call()


# Any sequence of moves


def test_what_is_needed_moves_only_where_that_is_asked_for(tiny: Registry) -> None:
    for name in ("a", "b"):
        add(tiny, name, ("verified", "profiled", "active"))
    tiny.set_reference("tiny", "a", actor="test")

    def drain(name: str, *, spare_only: bool = True) -> None:
        tiny.move("tiny", name, "draining", actor="test", reason="", spare_only=spare_only)

    with pytest.raises(Conflict, match="'a' is the reference"):
        drain("a")
    drain("a", spare_only=False)
    with pytest.raises(Conflict, match="'b' is the last active variant"):
        drain("b")


def test_a_claimed_version_is_held_until_its_change(database: Database, tiny: Registry) -> None:
    add(tiny, "new", ("verified",))
    variant = Resource(kind="variant", names=(("model", "tiny"), ("name", "new")))
    seen = versions.version(database, variant)
    assert seen is not None
    assert versions.claim(database, variant, frozenset({seen})) == seen + 1
    assert versions.claim(database, variant, frozenset({seen})) is None

    def move(state: State) -> None:
        tiny.move("tiny", "new", state, actor="test", reason="")

    with versions.held(variant, seen + 1) as held:
        move("profiled")
        assert held.version == seen + 2
        move("inactive")  # what follows the first change belongs to it
    with versions.held(variant, seen + 1), pytest.raises(Outdated):
        move("retired")
    assert tiny.variant("tiny", "new").state == "inactive"


def test_one_variant_of_a_model_is_tried_at_a_time_by_a_plan_that_ends_with_it(
    tiny: Registry,
) -> None:
    for name in ("new", "newer"):
        add(tiny, name, PROFILED)
    plan = '{"share": {"ratio": 0.5}}'
    tiny.move("tiny", "new", "canary", actor="test", reason="", plan=plan)
    assert tiny.variant("tiny", "new").plan == plan
    with pytest.raises(Conflict, match="'new' is the canary of 'tiny'"):
        tiny.move("tiny", "newer", "shadow", actor="test", reason="", plan=plan)
    with pytest.raises(Conflict, match="there is no plan to change"):
        tiny.replan("tiny", "newer", plan, actor="test", reason="")
    tiny.replan("tiny", "new", "{}", actor="test", reason="more of it")
    assert tiny.variant("tiny", "new").plan == "{}"
    tiny.move("tiny", "new", "inactive", actor="test", reason="")
    assert tiny.variant("tiny", "new").plan is None
    tiny.move("tiny", "newer", "shadow", actor="test", reason="", plan=plan)


class RegistryMachine(RuleBasedStateMachine):
    """Random registrations and moves against a dictionary, reopening now and then."""

    folder: pytest.TempPathFactory
    names = Bundle("names")

    @initialize()
    def start(self) -> None:
        self.path = Path(self.folder.mktemp("registry")) / "registry.sqlite3"
        self.open()
        self.registry.put_model(tiny_spec(), None, actor="test")
        self.states: dict[str, State] = {}
        self.changes: dict[str, int] = {}

    def open(self) -> None:
        self.database = Database(self.path)
        self.registry = Registry(self.database)

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
        tried = {n for n, found in self.states.items() if found in CANDIDATES} - {name}
        if state in TRANSITIONS[self.states[name]] and not (tried and state in CANDIDATES):
            self.registry.move("tiny", name, state, actor="m", reason="")
            self.states[name] = state
            self.changes[name] += 1
        else:
            with pytest.raises(Conflict):
                self.registry.move("tiny", name, state, actor="m", reason="")

    @rule(name=consumes(names))
    def reopen(self, name: str) -> None:
        del name
        self.database.close()
        self.open()

    @invariant()
    def registry_equals_the_dictionary(self) -> None:
        if not hasattr(self, "registry"):
            return
        found = {variant.name: variant.state for variant in self.registry.variants("tiny")}
        assert found == self.states
        for name, changes in self.changes.items():
            told = history(self.database, name)
            assert len(told) == changes
            assert told[-1].new_state == self.states[name]

    def teardown(self) -> None:
        if hasattr(self, "database"):
            self.database.close()


def test_any_sequence_of_moves_agrees_with_the_table(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    class Machine(RegistryMachine):
        folder = tmp_path_factory

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=8, stateful_step_count=15, deadline=None)
    )
