"""What an evaluation found out about a variant beyond its accuracy, as a manifest holds it.

How each number is computed is in `compressors/evaluate.py` and `compressors/cascades.py`.
"""

from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from variants.profile import Accuracy
from variants.spec import Name


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An estimate with its 95 % interval."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """A variant's answers held against those of the reference, row by row of the test split.

    `flips` is the share of rows with another answer. `difference` is the variant's accuracy less
    the reference's, from −1 to 1. `mcnemar_p` tells how likely so uneven a split of the rows that
    only one of the two gets right would be, were both equally good.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    reference: Name
    n: int
    flips: Interval
    right_to_wrong: int
    wrong_to_right: int
    difference: Interval
    mcnemar_p: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Alike:
    """The share of `n` evaluation rows with the answer of the reference, as the gate found it when
    the variant was registered."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    reference: Name
    n: int
    share: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class WorstClass:
    """The class whose rows are answered worst."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    label: str
    accuracy: Accuracy


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """The served artifact's scores against those of the torch module it was exported from.

    On the first `rows` selection rows. `limit` is the largest difference that passes; it is None
    where a later step, such as int8, changes the scores on purpose.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    rows: int
    max_abs_difference: float
    same_answer_ratio: float
    limit: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What the test split says beyond accuracy, and how far the export is from its source.

    `calibration_error` is the expected difference between confidence and accuracy, from 0 to 1.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    calibration_error: float
    worst_class: WorstClass
    agreement: Agreement | None = None
    drift: Drift | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSensitivity:
    """What a change of one layer alone did, in terms of `metric`."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    layer: str
    metric: str
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Cascade:
    """Ask `first`; where its largest softmax probability is below `threshold`, ask `then`.

    Calibrated on `n` selection rows so that accuracy is less than `max_drop_points` percentage
    points below that of `then`, surely enough. `escalation` is the expected share of rows that go
    on to `then`, `accuracy` the cascade's own, `latency_s` the expected median time of one row:
    `first` plus `escalation` times `then`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    first: Name
    then: Name
    threshold: float
    max_drop_points: float
    n: int
    escalation: Interval
    accuracy: Interval
    latency_s: float
