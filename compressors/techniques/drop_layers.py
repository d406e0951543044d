"""Whole blocks left out: encoder layers or residual blocks, those that change the answers least.

One at a time: each block that is left is tried, the one without which the answers on calibration
rows stay nearest goes, and the rest is measured anew. Sources: A. Fan, E. Grave, A. Joulin,
"Reducing transformer depth on demand with structured dropout" (2020) for every other layer;
H. Sajjad et al., "On the effect of dropping layers of pre-trained transformer models" (2023).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from compressors import blocks
from compressors.anatomy import Anatomy
from compressors.bench import Bench
from compressors.gauge import Gauge, example
from compressors.retrain import retrain
from compressors.techniques import Shapes
from variants.errors import Invalid

if TYPE_CHECKING:
    from torch import nn

FAMILY: Literal["pruning"] = "pruning"
GUIDE = "The plainest speed-up of a deep transformer or residual network; fine-tune after it."
HARDWARE = "any"
WORKS_ON: Literal["torch"] = "torch"
REQUIRES: tuple[str, ...] = ("torch",)
KNOBS: dict[str, tuple[Any, ...]] = {"ratio": (0.25, 0.34, 0.5, 0.67)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How many blocks go, which, and how the rest is taught.

    `ratio`: share of the blocks that is left out, from 0 to 1; at least one goes and one stays.
    `choose`: `least_change` measures which; `alternate` takes every other, the first one stays.
    `soft_share`: weight of the parent's answers against the labels, from 0 to 1.
    `temperature`: softens both answers; 1 leaves them as they are.
    `epochs`, `learning_rate`: fine-tuning; a fraction of a pass is allowed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    choose: Literal["least_change", "alternate"] = "least_change"
    soft_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    temperature: Annotated[float, Field(ge=1, le=100)] = 2.0
    epochs: Annotated[float, Field(ge=0, le=1000)] = 0.5
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.02


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Needs at least two blocks."""
    del config
    if anatomy.droppable_blocks < 2:
        return (
            f"it has {anatomy.droppable_blocks} blocks, in lists or sequences, whose output has "
            "the form of their input; two are needed"
        )
    return ""


def compress(model: "nn.Module", config: Config, bench: Bench) -> "nn.Module":
    """A copy of `model` without some blocks, fine-tuned.

    Raises `Invalid` where there are fewer than two.
    """
    names = blocks.droppable(model, example(bench))
    if len(names) < 2:
        raise Invalid(f"{len(names)} blocks can be left out; two are needed")
    count = min(len(names) - 1, max(1, round(config.ratio * len(names))))
    choose = {"least_change": _least_change, "alternate": _alternate}[config.choose]
    shorter = blocks.without(model, choose(model, names, count, bench))
    retrain(
        shorter,
        model,
        bench,
        soft_share=config.soft_share,
        temperature=config.temperature,
        epochs=config.epochs,
        learning_rate=config.learning_rate,
    )
    return shorter


def rebuild(model: "nn.Module", config: Config, shapes: Shapes, bench: Bench) -> "nn.Module":
    """The module without the blocks of which nothing is stored."""
    del config
    names = blocks.droppable(model, example(bench))
    return blocks.without(model, blocks.missing(names, shapes))


def _least_change(model: "nn.Module", names: list[str], count: int, bench: Bench) -> list[str]:
    gauge = Gauge(model, bench)
    dropped: list[str] = []
    for _ in range(count):
        harms = {
            name: gauge.divergence(blocks.without(model, [*dropped, name]))
            for name in names
            if name not in dropped
        }
        if not dropped:
            for name, harm in harms.items():
                gauge.note("drop_layers", name, harm)
        dropped.append(min(harms, key=lambda name: harms[name]))
    return dropped


def _alternate(model: "nn.Module", names: list[str], count: int, bench: Bench) -> list[str]:
    """Evenly spread: every other one for a half."""
    del model, bench
    return [names[(2 * place + 1) * len(names) // (2 * count)] for place in range(count)]
