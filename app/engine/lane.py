"""One model's queue, and what is known of its variants at this moment."""

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np

from app.catalog import ServedModel, ServedVariant
from app.engine.batch import Entry
from app.engine.frames import MAX_PAYLOAD_BYTES
from router.candidate import Candidate
from router.correction import Correction, correcting
from router.forecast import Forecast
from router.gate import Gate
from router.kind import Kind
from router.outlook import Outlook, Outlooks
from router.waiting import Waiting
from variants.spec import ModelSpec

REMEMBERED_SETS = 64
RESTING = 64
"""Corrections of so many variants are kept that are out of use."""


@dataclass(kw_only=True, slots=True)
class Gated:
    """A gate with what it was made from, and until when nobody need look whether that changed."""

    gate: Gate
    model: ServedModel
    expected: frozenset[str]
    quarantine: frozenset[str]
    seen: Sequence[Candidate]
    until_s: float


class Lane:
    """One model's queue and the live candidates of its variants, draining ones included."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.entries: dict[int, Entry] = {}
        self.waiting = Waiting()
        self.forecast = Forecast()
        self.variants: dict[str, ServedVariant] = {}
        self.corrections: dict[str, Correction] = {}
        self._correct = correcting()
        self._resting: dict[str, Correction] = {}
        self._outlooks = Outlooks()
        self._names: dict[frozenset[str], frozenset[str]] = {}
        self._keys: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.gates: dict[bool, Gated] = {}
        """Without and with the canary."""
        row_bytes = sum(t.elements * np.dtype(t.dtype).itemsize for t in spec.inputs)
        self.max_batch = max(1, min(spec.max_batch, MAX_PAYLOAD_BYTES // row_bytes))

    def add(self, served: ServedVariant) -> None:
        """Hold a variant that workers have loaded or will load.

        One that is back after a while is known by what its runs have taken before.
        """
        name = served.manifest.variant
        if name not in self.variants:
            self.variants[name] = served
            known = self._resting.pop(served.key, None)
            self.corrections[name] = known or self._correct(served.candidate)
            self._names.clear()
            self._keys.clear()

    def names(self, keys: frozenset[str]) -> frozenset[str]:
        """The variants among these keys, by name."""
        found = self._names.get(keys)
        if found is None:
            if len(self._names) >= REMEMBERED_SETS:
                self._names.clear()
            found = frozenset(name for name, v in self.variants.items() if v.key in keys)
            self._names[keys] = found
        return found

    def keys(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The keys of these variants."""
        found = self._keys.get(names)
        if found is None:
            if len(self._keys) >= REMEMBERED_SETS:
                self._keys.clear()
            found = self._keys[names] = tuple([self.variants[name].key for name in names])
        return found

    def remove(self, variant: str) -> None:
        """Let go of a variant that nobody may use any more."""
        if served := self.variants.pop(variant, None):
            correction = self._resting[served.key] = self.corrections.pop(variant)
            correction.rest()
            if len(self._resting) > RESTING:
                del self._resting[next(iter(self._resting))]
        self._names.clear()
        self._keys.clear()

    def hold(self, entry: Entry) -> Kind:
        """Let a request wait."""
        self.entries[entry.queued.id] = entry
        return self.waiting.add(entry.queued)

    def take(self, id: int) -> Entry:
        """The request no longer waits."""
        self.waiting.remove(id)
        return self.entries.pop(id)

    def outlook(
        self, loaded: frozenset[str], quarantine: Set[str], now_s: float, handover_s: float
    ) -> Outlook:
        """What can be expected of a worker that has these variants, by what is known now."""
        candidates = {
            name: correction.candidate(now_s)
            for name, correction in self.corrections.items()
            if self.variants[name].key not in quarantine
        }
        return self._outlooks.of(candidates, loaded, handover_s=handover_s)

    @property
    def head(self) -> tuple[int, float]:
        """Urgency and deadline of the request that should go first."""
        first = self.waiting.requests[0]
        return first.urgency, first.deadline_s
