"""What the gates of a new artifact found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from pydantic import ConfigDict

Gate = Literal[
    "signing", "format", "structure", "signature", "load", "profile", "accuracy", "agreement"
]
GATES: tuple[Gate, ...] = get_args(Gate)
"""In the order in which they are passed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one gate found. `detail` says why it failed or was skipped."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    gate: Gate
    outcome: Literal["passed", "failed", "skipped", "not_reached"]
    detail: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
