"""What the admin API promises, in a hundred lines: no files, no workers, no time.

Each method is one request; it answers the status that must come back and changes the state as
that request must. Written from the documentation, not from the code that it is held against.
"""

from dataclasses import dataclass, field

CANDIDATES = frozenset({"shadow", "canary"})
COMING_IN = CANDIDATES | {"inactive"}
"""From these a variant may be activated, or tried as a shadow or canary."""


@dataclass
class AdminModel:
    """One model's variants by state, its reference, the keys that were made and the uploads, by
    what they are of: how many bytes are here, and whether that is all."""

    states: dict[str, str]
    reference: str
    keys: dict[str, frozenset[str]] = field(default_factory=dict)
    uploads: dict[str, tuple[int, bool]] = field(default_factory=dict)

    @property
    def active(self) -> set[str]:
        """Who answers every request."""
        return {name for name, state in self.states.items() if state == "active"}

    def register(self, name: str, artifact: str, then: str, *, dry: bool) -> int:
        """`artifact` is `good`, `other` (another signature), `pickle` or `missing`."""
        if artifact == "missing":
            return 404
        if dry:
            return 409 if name in self.states else 200
        if artifact == "pickle":
            return 415
        if name in self.states:
            return 409
        self.states[name] = "inactive" if artifact == "good" else "failed"
        if artifact == "good" and then != "wait":
            self.activate(name) if then == "activate" else self.try_out(name, then)
        return 201

    def activate(self, name: str) -> int:
        if name not in self.states:
            return 404
        if self.states[name] not in COMING_IN | {"active"}:
            return 409
        self.states[name] = "active"
        return 200

    def try_out(self, name: str, state: str) -> int:
        """`state` is `shadow` or `canary`; a model has at most one of them."""
        if name not in self.states:
            return 404
        if self.states[name] not in COMING_IN:
            return 409
        if any(n != name and s in CANDIDATES for n, s in self.states.items()):
            return 409
        self.states[name] = state
        return 200

    def deactivate(self, name: str, *, force: bool) -> int:
        if name not in self.states:
            return 404
        state = self.states[name]
        if state in {"retired", "failed"}:
            return 409
        if state == "active" and not force and (name == self.reference or self.active == {name}):
            return 409
        self.states[name] = "inactive"
        return 200

    def retire(self, name: str, *, force: bool) -> int:
        if name not in self.states:
            return 404
        if self.states[name] not in {"retired", "failed"}:
            status = self.deactivate(name, force=force)
            if status != 200:
                return status
        self.states[name] = "retired"
        return 200

    def set_reference(self, name: str) -> int:
        if name not in self.states:
            return 404
        if self.states[name] != "active":
            return 409
        self.reference = name
        return 200

    def infer(self, name: str) -> int:
        """A request that is pinned to one variant."""
        if name not in self.states:
            return 404
        return 200 if self.states[name] == "active" else 409

    def append(self, what: str, offset: int, length: int, *, last: bool) -> int:
        """Bytes from an offset on, and whether they are the last."""
        here, complete = self.uploads.get(what, (0, False))
        if complete:
            return 200
        if offset != here:
            return 409
        self.uploads[what] = here + length, last
        return 201 if last else 202

    def cancel(self, what: str) -> int:
        if self.uploads.get(what, (0, True))[1]:
            return 404
        del self.uploads[what]
        return 204

    def rotate(self, key: str) -> int:
        return 200 if key in self.keys else 404

    def revoke(self, key: str) -> int:
        return 204 if self.keys.pop(key, None) is not None else 404

    def may(self, key: str, scope: str) -> int:
        """What a route that needs this scope says to a key."""
        if key not in self.keys:
            return 401
        return 200 if scope in self.keys[key] else 403
