"""Which chains of techniques a search may try, as choices for its sampler."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from compressors import techniques, user_model
from compressors.anatomy import Anatomy
from compressors.plan import Plan, TypedStep
from compressors.source import Source

if TYPE_CHECKING:
    import optuna

TORCH_STEPS = 2
NONE = "none"
EPOCH_SHARES = (0.25, 0.5, 1.0)
"""Training of a step, as shares of the reference's epochs."""
RATE_SHARES = (0.1, 0.3, 1.0)
"""Peak learning rates of a step, as shares of the reference's."""


class Stopped(Exception):
    """A trial ends early; the message says why."""


class Proposals:
    """The chains that suit one plan's model."""

    def __init__(self, plan: Plan, source: Source, anatomy: Anatomy) -> None:
        self._plan = plan
        self._source = source
        self._anatomy = anatomy

    def names(self, works_on: str) -> list[str]:
        """Techniques of this kind that are installed and suit the model."""
        source = self._source
        if works_on == "torch" and source.user is None:
            return []
        promised = techniques.Promised(
            offered=user_model.offered(source.user.path) if source.user else frozenset(),
            inputs=source.spec.inputs,
        )
        found = []
        for name in techniques.names():
            technique = techniques.find(name)
            if works_on != technique.WORKS_ON or technique.FAMILY == "reference":
                continue
            if techniques.missing(technique.REQUIRES):
                continue
            config = technique.Config(**{key: values[0] for key, values in technique.KNOBS.items()})
            lacks = techniques.lacking(technique, config, promised)
            if not lacks and not technique.unsuitable(self._anatomy, config):
                found.append(name)
        return found

    def openings(self) -> Iterator[dict[str, Any]]:
        """The first trials: the reference as it is, then each technique alone."""
        yield dict.fromkeys((_place(n) for n in range(TORCH_STEPS)), NONE)
        for name in self.names("torch"):
            yield {_place(0): name, **{_place(n): NONE for n in range(1, TORCH_STEPS)}}

    def chain(self, proposed: "optuna.Trial") -> tuple[TypedStep, ...]:
        """The torch steps that the sampler chooses. Raises `Stopped` for two of one family."""
        names = self.names("torch")
        steps: list[TypedStep] = []
        families: set[str] = set()
        for number in range(TORCH_STEPS):
            place = _place(number)
            name = proposed.suggest_categorical(place, [NONE, *names])
            if name == NONE:
                continue
            technique = techniques.find(name)
            if technique.FAMILY in families:
                raise Stopped(f"a second step of the family {technique.FAMILY}")
            families.add(technique.FAMILY)
            choices = {
                **technique.KNOBS,
                "epochs": tuple(self._plan.train.epochs * share for share in EPOCH_SHARES),
                "learning_rate": tuple(
                    self._plan.train.learning_rate * share for share in RATE_SHARES
                ),
            }
            values = {
                knob: proposed.suggest_categorical(f"{place}.{name}.{knob}", options)
                for knob, options in choices.items()
            }
            steps.append(TypedStep(technique=name, config=technique.Config(**values)))
        return tuple(steps)


def _place(number: int) -> str:
    return f"step {number + 1}"
