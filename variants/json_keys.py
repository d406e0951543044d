"""JSON objects whose keys must all differ: other parsers take the last of two, or the first."""

from typing import Any


class RepeatedKey(ValueError):
    """An object has a key twice."""

    def __init__(self, key: str) -> None:
        super().__init__(f"key {key[:80]!r} is repeated")
        self.key = key


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads(…, object_pairs_hook=unique)`. Raises `RepeatedKey` for the first one."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise RepeatedKey(key)
            seen.add(key)
    return found
