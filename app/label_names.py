"""Which models and variants have series of their own: the first ones, up to a number.

Every name costs some fifty series, for as long as the gateway runs. What comes later is counted
under `_other_`.
"""

from collections.abc import Sequence

OTHER = "_other_"
NO_NAME = frozenset({"", "_unknown_"})
"""Stand for no model or variant in particular."""

OF_VARIANTS = frozenset({"variant", "first", "then"})
"""Labels that hold a variant's name."""


class LabelNames:
    """Hands out names to labels."""

    def __init__(self, models: int = 50, variants: int = 250) -> None:
        self._most_models, self._most_variants = models, variants
        self._models: set[str] = set()
        self._variants: set[tuple[str, str]] = set()
        self._folded: set[tuple[str, ...]] = set()

    @property
    def folded(self) -> int:
        """How many models and variants are counted under `_other_`."""
        return len(self._folded)

    def model(self, name: str) -> str:
        """The name to count a model under."""
        if name in self._models or name in NO_NAME:
            return name
        if len(self._models) < self._most_models:
            self._models.add(name)
            return name
        self._fold((name,))
        return OTHER

    def variant(self, model: str, name: str) -> str:
        """The name to count a model's variant under."""
        pair = model, name
        if pair in self._variants or name in NO_NAME:
            return name
        if self.model(model) == model and len(self._variants) < self._most_variants:
            self._variants.add(pair)
            return name
        self._fold(pair)
        return OTHER

    def own(self, model: str, variant: str | None = None) -> bool:
        """Whether a model, or its variant, is counted under its own name."""
        if variant is None:
            return self.model(model) == model
        return self.variant(model, variant) == variant

    def values(self, labels: Sequence[str], values: tuple[str, ...]) -> tuple[str, ...]:
        """The values of these labels, with the names to count under."""
        if "model" not in labels:
            return values
        model = values[labels.index("model")]
        return tuple(
            self.model(value)
            if label == "model"
            else self.variant(model, value)
            if label in OF_VARIANTS
            else value
            for label, value in zip(labels, values, strict=True)
        )

    def _fold(self, name: tuple[str, ...]) -> None:
        if len(self._folded) < 10 * self._most_variants:  # a bound on what is remembered of them
            self._folded.add(name)
