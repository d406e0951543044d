"""The identity of a piece of work: the same key means that nothing has to be done again."""

from importlib import metadata

from compressors import export
from compressors.plan import Plan, Recipe
from variants.digest import file_sha256
from variants.manifest import digest_json


def build_key(plan: Plan, recipe: Recipe, parent_id: str | None) -> str:
    """SHA-256 over parent, recipe, tool versions, seed, and everything that the rows come from.

    Gates and profile settings are left out: they decide about a variant, but do not change it.
    """
    trains = parent_id is None or bool(recipe.steps_on("torch"))
    steps = [[step.technique, dict(step.record.config)] for step in recipe.steps]
    return digest_json(
        {
            "parent": parent_id,
            "variant": recipe.name,
            "steps": steps,
            "tools": tools(plan, recipe),
            "train": plan.train.model_dump(mode="json") if trains else None,
            "seed": plan.seed,
            "source": source_digest(plan),
        }
    )


def tools(plan: Plan, recipe: Recipe) -> dict[str, str]:
    """Versions of the packages that make this variant, without importing them."""
    needed = set(recipe.requires)
    if recipe.parent is None and plan.model.python is not None:
        needed.update(export.REQUIRES)
    return {name: metadata.version(name) for name in sorted(needed)}


def source_digest(plan: Plan) -> str:
    """SHA-256 over the model's promise and the bytes of every file that the plan names."""
    table = plan.model
    named = (table.python, table.onnx, table.evaluation, table.selection, table.calibration)
    files = [path for path in (*named, *plan.data_files) if path is not None]
    promise = table.model_dump(
        mode="json", exclude={"python", "onnx", "evaluation", "selection", "calibration"}
    )
    return digest_json({"promise": promise, "files": [file_sha256(path) for path in files]})
