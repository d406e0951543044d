"""The last decisions, so that "why this variant?" can be answered afterwards."""

from dataclasses import dataclass

from app.access import Caller
from app.tenant import Bill
from router.constraints import Constraints
from router.decision import Decision
from variants.errors import NotFound
from variants.evidence import Cascade


@dataclass(kw_only=True, slots=True)
class DecisionRecord:
    """One decision; what came of it is filled in. `variant` is None where nothing answered."""

    number: int
    id: str
    model: str
    constraints: Constraints
    decision: Decision
    arrival_s: float
    rows: int
    caller: Caller
    bill: Bill | None = None
    variant: str | None = None
    queue_s: float | None = None
    run_s: float | None = None
    total_s: float | None = None
    cascade: Cascade | None = None


class Decisions:
    """A bounded memory of decision records, oldest forgotten first.

    A record's id is `PREFIX-NUMBER`, the number hexadecimal. Numbers come in order, so the records
    lie in a ring, and forgetting costs nothing.
    """

    def __init__(self, id_prefix: str, limit: int = 4096) -> None:
        self._prefix = id_prefix
        self._limit = limit
        self._records: list[DecisionRecord | None] = [None] * limit

    def open(
        self,
        number: int,
        model: str,
        constraints: Constraints,
        decision: Decision,
        arrival_s: float,
        *,
        rows: int,
        caller: Caller,
    ) -> DecisionRecord:
        """A record of a decision, remembered from now on."""
        record = self._records[number % self._limit] = DecisionRecord(
            number=number,
            id=f"{self._prefix}-{number:x}",
            model=model,
            constraints=constraints,
            decision=decision,
            arrival_s=arrival_s,
            rows=rows,
            caller=caller,
        )
        return record

    def get(self, id: str) -> DecisionRecord:
        """One record. Raises `NotFound` for one that never was or is forgotten."""
        try:
            record = self._records[int(id.rpartition("-")[2], 16) % self._limit]
        except ValueError:
            record = None
        if record is not None and record.id == id:
            return record
        raise self.unknown(id)

    def unknown(self, id: str) -> NotFound:
        """What is to be raised for a decision that is not there, or not for the caller."""
        return NotFound(f"no decision {id[:80]!r}; the last {self._limit} are remembered")
