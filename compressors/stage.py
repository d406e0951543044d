"""What the first recipe that needs work prepares for all: the source, the workshop, the rows."""

from dataclasses import dataclass
from pathlib import Path

from compressors import source as sources
from compressors.bench import Bench
from compressors.plan import Plan
from compressors.records import Records
from compressors.source import Source
from compressors.workshop import Workshop
from variants import evaluation
from variants.data_folder import DataFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A loaded source. `evaluations` are safetensors files: `test` is for reported numbers alone,
    `selection` for every choice.
    """

    source: Source
    workshop: Workshop
    evaluations: dict[str, Path]


def prepare(plan: Plan, folder: DataFolder, records: Records, scratch: Path) -> Stage:
    """Load the plan's source and make its model known to the registry.

    Raises what `source.load` raises.
    """
    source = sources.load(plan)
    test = folder.store.put_bytes(evaluation.dumps(source.data.test))
    if source.tokenizer is not None:
        folder.store.put_bytes(source.tokenizer)
    folder.registry.put_model(source.spec, test, actor="build")
    selection = scratch / "selection.safetensors"
    selection.write_bytes(evaluation.dumps(source.data.selection))
    bench = Bench(
        spec=source.spec,
        data=source.data,
        user=source.user,
        train=plan.train,
        seed=plan.seed,
        scratch=scratch,
        kept=records.folder,
    )
    return Stage(
        source=source,
        workshop=Workshop(source, bench, records),
        evaluations={"test": folder.store.blob_path(test), "selection": selection},
    )
