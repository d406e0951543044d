"""What became of each build: one JSON file per build key, and the torch weights beside it.

    <data folder>/builds/<build key>.json
    <data folder>/builds/<build key>.<step>.safetensors
    <data folder>/builds/<build key>.scores.safetensors
    <data folder>/builds/<build key>.lock
    <data folder>/builds/<digest of a teacher and its rows>.answers.safetensors

A refused or failed build is a result too: it keeps its reason, and a refused one its evidence, so
that the same plan is not built again and a changed gate is decided without building.
"""

import fcntl
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from compressors.scores import Scores
from variants.errors import Invalid
from variants.manifest import Digest
from variants.profile import Accuracy
from variants.spec import Name

Status = Literal["built", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRecord:
    """One build. `reason` says why it failed or why the gates refuse it; empty where neither is so.

    `selection` is the accuracy that gates look at, on rows of their own.

    `weights` counts the stored weight files: one per torch step, and one more for the reference,
    whose first file is the trained model.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    build_key: Digest
    model: Name
    variant: Name
    status: Status
    reason: str = ""
    note: str = ""
    manifest_id: Digest | None = None
    selection: Accuracy | None = None
    weights: int = 0
    finished_at: str


_adapter: TypeAdapter[BuildRecord] = TypeAdapter(BuildRecord)


class Records:
    """The folder of build records."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "builds"
        self.folder.mkdir(parents=True, exist_ok=True)

    def find(self, build_key: str) -> BuildRecord | None:
        """The record of this build; None where there is none that can be read."""
        try:
            return _adapter.validate_json((self.folder / f"{build_key}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def put(self, record: BuildRecord) -> None:
        """Write a record, whole or not at all."""
        self._write(f"{record.build_key}.json", _adapter.dump_json(record, indent=2) + b"\n")

    def latest(self, model: str) -> dict[str, BuildRecord]:
        """The last build of each of this model's variants, in the order of their names."""
        found = (self.find(path.stem) for path in self.folder.glob("*.json"))
        ours = [record for record in found if record is not None and record.model == model]
        ours.sort(key=lambda record: (record.variant, record.finished_at))
        return {record.variant: record for record in ours}

    def put_scores(self, build_key: str, scores: Mapping[str, Scores]) -> None:
        """Write a variant's scores by split, whole or not at all."""
        tensors = {}
        for split, one in scores.items():
            tensors[f"{split}.values"] = np.ascontiguousarray(one.values)
            tensors[f"{split}.labels"] = np.ascontiguousarray(one.labels)
        self._write(f"{build_key}.scores.safetensors", save(tensors))

    def scores(self, build_key: str, split: str) -> Scores | None:
        """A variant's scores on one split; None where there are none that can be read."""
        path = self.folder / f"{build_key}.scores.safetensors"
        try:
            with safe_open(path, framework="numpy") as file:
                return Scores(
                    values=file.get_tensor(f"{split}.values"),
                    labels=file.get_tensor(f"{split}.labels"),
                )
        except (FileNotFoundError, SafetensorError, Invalid):
            return None

    def _write(self, name: str, data: bytes) -> None:
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".partial", delete=False) as file:
            file.write(data)
        Path(file.name).replace(self.folder / name)

    @contextmanager
    def lock(self, build_key: str) -> Iterator[None]:
        """Keep this build to oneself; another process that has it in hand is waited for.

        The lock ends with the process, however that ends (`flock(2)`).
        """
        with (self.folder / f"{build_key}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def weights_path(self, build_key: str, step: int) -> Path:
        """Where the torch weights after this step lie."""
        return self.folder / f"{build_key}.{step}.safetensors"
