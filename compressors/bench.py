"""What a technique may use while it works: data, training settings, a scratch folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compressors.data import Data
from compressors.training_settings import Train
from compressors.user_model import UserModel
from variants.measure import Progress
from variants.spec import ModelSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """One build's tools. `user` is None for a model that came as an ONNX file.

    `scratch` ends with the build; `kept` stays for later ones, where there is such a folder.
    `note_sensitivity` is told a layer, a metric and its value when a technique measures what a
    change of that layer alone does.
    """

    spec: ModelSpec
    data: Data
    user: UserModel | None
    train: Train
    seed: int
    scratch: Path
    kept: Path | None = None
    progress: Progress = lambda _: None
    note_sensitivity: Callable[[str, str, float], None] = lambda layer, metric, value: None
