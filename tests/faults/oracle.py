"""What must hold after a crash: everything acknowledged is there, and nothing is half done.

Whoever changes something notes an `intent` before and a `fact` after it was acknowledged. At any
moment, a fact that was noted holds, unless a later intent may already have changed it.
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass

from variants.data_folder import DataFolder
from variants.lifecycle import INTERRUPTED

ABSENT = "absent"
"""The state of what is not there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Of one thing (`variant x`, `key id`, `blob digest`): the states that it may be in.

    `acknowledged` notes replace what was possible before, others add to it. `at` is a moment.
    """

    at: int
    thing: str
    states: frozenset[str]
    acknowledged: bool


class Notes:
    """The notes of every client, in order; `clock` tells the moment."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._adding = threading.Lock()
        self.all: list[Note] = []

    def intent(self, thing: str, *states: str) -> None:
        """It may come into one of these states from now on."""
        self._add(thing, states, acknowledged=False)

    def fact(self, thing: str, *states: str) -> None:
        """It is in one of these states."""
        self._add(thing, states, acknowledged=True)

    def _add(self, thing: str, states: tuple[str, ...], *, acknowledged: bool) -> None:
        with self._adding:
            self.all.append(
                Note(
                    at=self._clock(),
                    thing=thing,
                    states=frozenset(states),
                    acknowledged=acknowledged,
                )
            )

    def possible(self, at: int) -> dict[str, frozenset[str]]:
        """The states that each thing may be in at this moment."""
        found: dict[str, frozenset[str]] = {}
        for note in self.all:
            if note.at > at:
                continue
            if note.acknowledged:
                found[note.thing] = note.states
            else:
                found[note.thing] = found.get(note.thing, frozenset({ABSENT})) | note.states
        return found


def check(data: DataFolder, possible: dict[str, frozenset[str]]) -> int:
    """Hold a recovered data folder against what is possible; returns how many things it held.

    Raises `AssertionError` for a lost or half-done change, and for rows and blobs that disagree.
    """
    found = actual(data)
    for thing, states in possible.items():
        assert found.get(thing, ABSENT) in states, (thing, found.get(thing, ABSENT), states)
    for thing in found.keys() - possible.keys():  # keys: who made one may not have heard of it
        assert not thing.startswith("variant"), f"{thing} came from nowhere"
    _whole(data)
    return len(possible)


def actual(data: DataFolder) -> dict[str, str]:
    """The state of every thing."""
    found = {f"key {key.id}": "revoked" if key.revoked_at else "valid" for key in data.keys.all()}
    for model in data.registry.models():
        found[f"reference {model.spec.name}"] = str(model.reference)
        for variant in data.registry.variants(model.spec.name):
            found[f"variant {variant.name}"] = variant.state
    for folder in (data.store.root / "blobs").iterdir():
        for path in folder.iterdir():
            found[f"blob {path.name}"] = "here"
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name, "a torn blob"
    return found


def _whole(data: DataFolder) -> None:
    """Rows, audit, blobs and manifests agree, and no variant is between two states."""
    for model in data.registry.models():
        for variant in data.registry.variants(model.spec.name):
            assert variant.state not in INTERRUPTED, variant
            assert data.store.has_blob(variant.artifact_digest), variant
            if variant.manifest_id is not None:
                manifest = data.store.manifest(variant.manifest_id)
                assert manifest.artifact.digest == variant.artifact_digest
            state = None
            for line in data.audit.of(variant.model, variant.name):
                if line.new_state is None:
                    continue
                assert line.old_state == state, (variant, line)
                state = line.new_state
            assert state == variant.state, variant
        known = {variant.name for variant in data.registry.variants(model.spec.name)}
        assert model.reference is None or model.reference in known
    created = [line for line in data.audit.after(0) if line.action == "key.create"]
    assert len(created) == len(data.keys.all())
