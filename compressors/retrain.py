"""Fine-tuning of a changed network, towards its parent's answers where those have a share."""

from typing import TYPE_CHECKING

from compressors import teacher, training
from compressors.bench import Bench

if TYPE_CHECKING:
    from torch import nn


def retrain(
    changed: "nn.Module",
    parent: "nn.Module",
    bench: Bench,
    *,
    soft_share: float,
    temperature: float,
    epochs: float,
    learning_rate: float,
) -> None:
    """Train `changed` in place; `soft_share` from 0 (labels alone) to 1 (the parent alone)."""
    if soft_share == 0:
        training.fit(changed, bench, epochs=epochs, learning_rate=learning_rate)
        return
    lesson = teacher.Lesson(
        soft_share=soft_share, temperature=temperature, epochs=epochs, learning_rate=learning_rate
    )
    live = teacher.Live(parent, bench)
    teacher.teach(changed, lesson, bench, answer=lambda rows, batch: live(batch))
