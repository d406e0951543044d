"""What a build says about one recipe, and who is told while it works."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from variants.manifest import Manifest
from variants.measure import Progress

Status = Literal["published", "skipped", "refused", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one recipe ended. `refused` means built and measured, but stopped by a gate.

    `manifest` is there unless the recipe failed; `note` is the user's remark about the data.
    """

    model: str
    variant: str
    status: Status
    reason: str = ""
    note: str = ""
    manifest: Manifest | None = None

    @property
    def good(self) -> bool:
        """Whether the variant is there to be served."""
        return self.status in ("published", "skipped")


class Watch(Protocol):
    """Told what a build does, for bars or lines on a console."""

    def begin(self, work: Mapping[str, float]) -> None:
        """The build starts; `work` estimates the seconds that each recipe needs."""
        ...

    def phase(self, recipe: str, doing: str, work: float) -> Progress:
        """The recipe enters a phase of about `work` seconds; the result takes its share done."""
        ...

    def end(self, outcome: Outcome) -> None:
        """A recipe has ended."""
        ...


class Silent:
    """A watch that says nothing."""

    def begin(self, work: Mapping[str, float]) -> None:
        """Say nothing."""

    def phase(self, recipe: str, doing: str, work: float) -> Progress:
        """Say nothing."""
        return lambda _: None

    def end(self, outcome: Outcome) -> None:
        """Say nothing."""
