"""What a search found, and whether it beats what was written by hand."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compressors.outcome import Outcome
from compressors.plan import Recipe
from variants.profile import Accuracy


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One finished file: its recipe, selection accuracy and the number to make small."""

    recipe: Recipe
    accuracy: Accuracy
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """How a search ended.

    `outcomes` tells how the recipes of the front were built; `by_hand` and `searched` are the best
    of the plan's own recipes and of the found ones that reach the floor, if any does.
    """

    outcomes: tuple[Outcome, ...]
    by_hand: Candidate | None
    searched: Candidate | None
    trials: int
    stopped_early: int

    @property
    def verdict(self) -> str:
        """Whether the search was worth it, in one sentence."""
        if self.searched is None:
            return "The search found no variant that reaches the floor."
        if self.by_hand is None:
            return f"No recipe of the plan reaches the floor; {_told(self.searched)} does."
        ratio = self.by_hand.value / self.searched.value
        if ratio > 1:
            return (
                f"The search beats the plan: {_told(self.searched)} against "
                f"{_told(self.by_hand)}, {ratio:.2f} times as good."
            )
        return (
            f"The search did not beat the plan: its best is {_told(self.searched)}, "
            f"the plan's {_told(self.by_hand)}."
        )


def _told(candidate: Candidate) -> str:
    return f"{candidate.recipe.name} ({candidate.accuracy.value:.4f}, {candidate.value:.4g})"


def as_toml(recipes: Sequence[Recipe]) -> str:
    """The recipes as they stand in a plan."""
    parts = []
    for recipe in recipes:
        steps = ", ".join(
            "{ "
            + ", ".join(
                f"{key} = {_toml(value)}"
                for key, value in {"technique": step.technique, **step.record.config}.items()
                if value is not None
            )
            + " }"
            for step in recipe.steps
        )
        parts.append(f'[[recipe]]\nname = "{recipe.name}"\nsteps = [{steps}]\n')
    text = "\n".join(parts)
    tomllib.loads(text)
    return text


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)
