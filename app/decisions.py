"""The last decisions, so that "why this variant?" can be answered afterwards."""

from collections import OrderedDict
from dataclasses import dataclass

from router.constraints import Constraints
from router.decision import Decision
from variants.errors import NotFound


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionRecord:
    """One decision with what came of it. `variant` is None where nothing answered."""

    id: str
    model: str
    constraints: Constraints
    decision: Decision
    variant: str | None
    queue_s: float | None
    run_s: float | None
    total_s: float | None


class Decisions:
    """A bounded memory of decision records by id, oldest forgotten first."""

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._records: OrderedDict[str, DecisionRecord] = OrderedDict()

    def add(self, record: DecisionRecord) -> None:
        """Remember a record."""
        self._records[record.id] = record
        if len(self._records) > self._limit:
            self._records.popitem(last=False)

    def get(self, id: str) -> DecisionRecord:
        """One record. Raises `NotFound` for one that never was or is forgotten."""
        try:
            return self._records[id]
        except KeyError:
            raise NotFound(f"no decision {id!r}; the last {self._limit} are remembered") from None
