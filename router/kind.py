"""Requests that are alike to the router share everything that is worked out about them."""

from dataclasses import dataclass

from router.constraints import Objective


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Kind:
    """What requests must have in common to expect the same. Compared by identity: see `Kinds`."""

    eligible: tuple[str, ...]
    rows: int
    percentile: int
    objective: Objective
    urgency: int


class Kinds:
    """The one `Kind` of each description, so that nothing long is hashed twice."""

    LIMIT = 4096
    """Beyond so many they are forgotten; the same description then makes another `Kind`."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[str, ...], int, int, Objective, int], Kind] = {}

    def of(
        self,
        eligible: tuple[str, ...],
        rows: int,
        percentile: int,
        objective: Objective,
        urgency: int,
    ) -> Kind:
        """The kind of a request with these properties."""
        key = (eligible, rows, percentile, objective, urgency)
        kind = self._known.get(key)
        if kind is None:
            if len(self._known) >= self.LIMIT:
                self._known.clear()
            kind = self._known[key] = Kind(
                eligible=eligible,
                rows=rows,
                percentile=percentile,
                objective=objective,
                urgency=urgency,
            )
        return kind
