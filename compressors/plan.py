"""A build plan: one model, its data, its recipes and its gates, checked whole before any work.

    plan = plan.load(Path("examples/fashion_mnist/plan.toml"))
    [recipe.name for recipe in plan.recipes]   # parents come before their children

Every problem is one `Invalid` naming file, line and the nearest valid word.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from compressors import export, techniques, texts, user_model
from compressors.anatomy import Anatomy
from compressors.training_settings import Train
from variants import tokenizer as tokenizers
from variants import toml_file
from variants.errors import Invalid
from variants.manifest import Step
from variants.measure import Effort
from variants.spec import ImagePreprocess, MaxTokens, Name, TensorSpec

Place = tuple[int | str, ...]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextTable(_Table):
    """`preprocess = { kind = "text", … }`: how a text becomes the model's inputs."""

    kind: Literal["text"]
    tokenizer: Path | None = None
    """A `tokenizer.json` relative to the plan; without it the model file offers `tokenizer()`."""
    max_tokens: MaxTokens
    """Every text is cut or padded to this length, which is the inputs' shape."""


def _with_kind(value: Any) -> Any:
    """A table that does not say its kind is about pictures."""
    return {"kind": "image", **value} if isinstance(value, dict) else value


PreprocessTable = Annotated[
    ImagePreprocess | TextTable, Field(discriminator="kind"), BeforeValidator(_with_kind)
]


class ModelTable(_Table):
    """`[model]`: where the model comes from and what it promises to clients."""

    name: Name
    task: Literal["classification"] = "classification"
    python: Path | None = None
    """A Python file as `compressors/user_model.py` describes it, relative to the plan."""
    onnx: Path | None = None
    """An ONNX file with a dynamic batch, relative to the plan; `evaluation` goes with it."""
    evaluation: Path | None = None
    """`.npz`: one array `[n, …]` per input under its name, and `labels` `[n]` integers."""
    selection: Path | None = None
    """`.npz` as above, for gates; without it a fifth of `evaluation` is held out."""
    calibration: Path | None = None
    """`.npz` with inputs only; without it rows of the selection split calibrate."""
    inputs: Annotated[tuple[TensorSpec, ...], Field(max_length=64)] = ()
    """Shapes without the batch axis. An ONNX file tells its own."""
    outputs: Annotated[tuple[TensorSpec, ...], Field(max_length=64)] = ()
    preprocess: PreprocessTable | None = None
    labels: tuple[str, ...] = ()
    max_batch: Annotated[int, Field(ge=1, le=1024)] = 32


class DataTable(_Table):
    """`[data]`: what else the results depend on."""

    files: tuple[Path, ...] = ()
    """Files that the model file reads, relative to the plan; a change asks for a new build."""


class ProfileTable(_Table):
    """`[profile]`: how thoroughly each variant is measured."""

    seconds: Annotated[float, Field(gt=0, le=600)] = 0.3
    """Seconds for each batch size on each runtime, at least."""
    samples: Annotated[int, Field(ge=10, le=100_000)] = 50
    """Runs of each batch size, at least."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Compute threads; measure with as many as a serving worker will have."""

    @property
    def effort(self) -> Effort:
        """The same for `variants.measure`."""
        return Effort(seconds=self.seconds, samples=self.samples)


class GatesTable(_Table):
    """`[gates]`: what a variant must reach, on the selection split, to be published."""

    max_accuracy_drop_points: Annotated[float, Field(ge=0, le=100)] | None = None
    """Percentage points below the reference."""
    min_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of right answers, from 0 to 1."""


class CascadesTable(_Table):
    """`[cascades]`: what asking a cheaper variant first may cost."""

    max_drop_points: Annotated[float, Field(gt=0, le=100)] = 0.5
    """Percentage points that a cascade's accuracy may be below that of its better variant."""


class StepTable(BaseModel):
    """One link of a recipe: `technique`, and the keys of that technique's configuration."""

    model_config = ConfigDict(extra="allow", frozen=True)

    technique: str


class RecipeTable(_Table):
    """`[[recipe]]`: one variant. `from` is its parent, the reference unless stated."""

    name: Name
    parent: Annotated[str | None, Field(alias="from")] = None
    steps: Annotated[tuple[StepTable, ...], Field(min_length=1)] | None = None
    """Without steps, the technique of the recipe's own name with its defaults."""


class PlanFile(_Table):
    """The whole file. The first recipe is the reference."""

    model: ModelTable
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    data: DataTable = DataTable()
    train: Train = Train()
    profile: ProfileTable = ProfileTable()
    gates: GatesTable = GatesTable()
    cascades: CascadesTable = CascadesTable()
    recipe: Annotated[tuple[RecipeTable, ...], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class TypedStep:
    """A technique's name with its configuration in the technique's own type."""

    technique: str
    config: Any

    @property
    def works_on(self) -> Literal["torch", "onnx"]:
        """Whether it changes the torch module or the exported file."""
        return techniques.find(self.technique).WORKS_ON

    @property
    def record(self) -> Step:
        """The step as a manifest holds it, defaults written out."""
        values = TypeAdapter(type(self.config)).dump_python(self.config, mode="json")
        return Step(technique=self.technique, config=values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One variant to build. Only the reference has no parent."""

    name: str
    parent: str | None
    steps: tuple[TypedStep, ...]
    index: int
    """Its place in the file, from 0."""

    def steps_on(self, form: Literal["torch", "onnx"]) -> tuple[TypedStep, ...]:
        """The steps that work on this form of the model."""
        return tuple(step for step in self.steps if step.works_on == form)

    @property
    def requires(self) -> tuple[str, ...]:
        """Imports that the recipe needs."""
        needed = {
            name
            for step in self.steps
            for name in techniques.requires(techniques.find(step.technique), step.config)
        }
        if self.steps_on("torch"):
            needed.update(export.REQUIRES)
        return tuple(sorted(needed))


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A valid plan. Paths are absolute; parents come before their children."""

    path: Path
    model: ModelTable
    seed: int
    data_files: tuple[Path, ...]
    train: Train
    profile: ProfileTable
    gates: GatesTable
    cascades: CascadesTable
    recipes: tuple[Recipe, ...]

    @property
    def reference(self) -> Recipe:
        """The variant that accuracy drops are counted from."""
        return self.recipes[0]

    def selected(self, only: Sequence[str]) -> tuple[Recipe, ...]:
        """The recipes named in `only` with their ancestors; all where `only` is empty.

        Raises `Invalid` for a name that is not in the plan.
        """
        by_name = {recipe.name: recipe for recipe in self.recipes}
        wanted: set[str] = set()
        for name in only:
            if name not in by_name:
                raise Invalid(f"{self.path}: no recipe {name!r}{_nearest(name, by_name)}")
            at: str | None = name
            while at is not None:
                wanted.add(at)
                at = by_name[at].parent
        return tuple(r for r in self.recipes if not only or r.name in wanted)

    def hold_against(self, anatomy: Anatomy) -> None:
        """Raise `Invalid` for the first step that cannot work on a model of this anatomy.

        What follows a student or a rewritten network is not held against the reference's anatomy.
        """
        changed: set[str] = set()
        for recipe in self.recipes:
            foreign = recipe.parent in changed
            for number, step in enumerate(recipe.steps):
                technique = techniques.find(step.technique)
                if not foreign and (reason := technique.unsuitable(anatomy, step.config)):
                    place: Place = ("recipe", recipe.index, "steps", number, "technique")
                    raise _wrong(
                        self.path,
                        self.path.read_text(encoding="utf-8"),
                        place,
                        f"{step.technique!r} does not suit this model: {reason}",
                    )
                foreign = foreign or technique.FAMILY in ("distillation", "architecture")
            if foreign:
                changed.add(recipe.name)


def load(path: Path) -> Plan:
    """The plan in a TOML file. Raises `Invalid` for the first thing that is wrong with it."""
    file = toml_file.load(path, PlanFile)
    return _Check(path, file).plan()


class _Check:
    """What a schema cannot say: names that refer to each other, files, libraries, devices."""

    def __init__(self, path: Path, file: PlanFile) -> None:
        self._path = path
        self._text = path.read_text(encoding="utf-8")
        self._file = file
        self._folder = path.resolve().parent

    def plan(self) -> Plan:
        model = self._model()
        recipes = self._recipes()
        self._device()
        return Plan(
            path=self._path,
            model=model,
            seed=self._file.seed,
            data_files=(
                *(self._existing(name, ("data", "files")) for name in self._file.data.files),
                *self._tokenizer(),
            ),
            train=self._file.train,
            profile=self._file.profile,
            gates=self._file.gates,
            cascades=self._file.cascades,
            recipes=recipes,
        )

    def _model(self) -> ModelTable:
        table = self._file.model
        if (table.python is None) == (table.onnx is None):
            raise self._wrong(("model",), "give either 'python' or 'onnx'")
        paths = {}
        for key in ("python", "onnx", "evaluation", "selection", "calibration"):
            if (value := getattr(table, key)) is not None:
                paths[key] = self._existing(value, ("model", key))
        if table.python is not None:
            self._python(table, paths["python"])
        elif table.evaluation is None:
            raise self._wrong(("model", "onnx"), "an ONNX model needs 'evaluation', an .npz file")
        return table.model_copy(update=paths)

    def _python(self, table: ModelTable, path: Path) -> None:
        for key in ("evaluation", "selection", "calibration"):
            if getattr(table, key) is not None:
                raise self._wrong(("model", key), "belongs to 'onnx'; a Python file has functions")
        for key in ("inputs", "outputs"):
            if not getattr(table, key):
                raise self._wrong(("model",), f"{key!r} is missing; a Python model states it")
        try:
            offered = user_model.offered(path)
        except Invalid as error:
            raise self._wrong(("model", "python"), str(error)) from error
        for function in user_model.REQUIRED:
            if function not in offered:
                near = _nearest(function, offered)
                raise self._wrong(("model", "python"), f"{path.name} has no {function}(){near}")
        if (absent := techniques.missing(export.REQUIRES)) != ():
            raise self._wrong(("model", "python"), _install(absent))

    def _tokenizer(self) -> tuple[Path, ...]:
        """The plan's tokenizer file, which the results depend on; none where Python has it."""
        table, place = self._file.model, ("model", "preprocess")
        if not isinstance(table.preprocess, TextTable):
            return ()
        if table.preprocess.tokenizer is not None:
            path = self._existing(table.preprocess.tokenizer, place)
            try:
                tokenizers.loads(texts.read(path), table.preprocess.max_tokens)
            except Invalid as error:
                raise self._wrong(place, f"{path.name}: {error}") from error
            return (path,)
        if table.python is None:
            raise self._wrong(place, "an ONNX text model names its 'tokenizer', a JSON file")
        if "tokenizer" not in user_model.offered(self._folder / table.python):
            raise self._wrong(
                place, f"give 'tokenizer', a JSON file, or offer tokenizer() in {table.python}"
            )
        return ()

    def _recipes(self) -> tuple[Recipe, ...]:
        tables = self._file.recipe
        names = [table.name for table in tables]
        parents: dict[str, str | None] = {}
        recipes: dict[str, Recipe] = {}
        for index, table in enumerate(tables):
            if table.name in recipes:
                raise self._wrong(("recipe", index, "name"), f"{table.name!r} is there twice")
            parents[table.name] = self._parent(index, table, names)
            recipes[table.name] = Recipe(
                name=table.name,
                parent=parents[table.name],
                steps=self._steps(index, table),
                index=index,
            )
        self._cycles(parents, names)
        self._torch_parents(recipes, names)
        return _parents_first(recipes)

    def _parent(self, index: int, table: RecipeTable, names: list[str]) -> str | None:
        if index == 0:
            if table.parent is not None:
                raise self._wrong(
                    ("recipe", 0, "from"), "the first recipe is the reference and has no parent"
                )
            return None
        parent = table.parent or names[0]
        if parent not in names:
            raise self._wrong(
                ("recipe", index, "from"), f"no recipe {parent!r}{_nearest(parent, names)}"
            )
        return parent

    def _cycles(self, parents: Mapping[str, str | None], names: list[str]) -> None:
        for index, name in enumerate(names):
            seen = [name]
            while (parent := parents[seen[-1]]) is not None:
                if parent in seen:
                    circle = " from ".join([*seen[seen.index(parent) :], parent])
                    raise self._wrong(("recipe", index, "from"), f"a circle: {circle}")
                seen.append(parent)

    def _torch_parents(self, recipes: Mapping[str, Recipe], names: list[str]) -> None:
        """A torch step needs the parent's torch module, which steps on the file leave behind."""
        for index, name in enumerate(names):
            recipe = recipes[name]
            if recipe.parent is None or not recipe.steps_on("torch"):
                continue
            for step in recipes[recipe.parent].steps_on("onnx"):
                if step.technique != "fp32":
                    raise self._wrong(
                        ("recipe", index, "from"),
                        f"{recipe.steps[0].technique!r} works on a torch module, but "
                        f"{recipe.parent!r} comes from an exported file ({step.technique!r})",
                    )

    def _steps(self, index: int, table: RecipeTable) -> tuple[TypedStep, ...]:
        place: Place = ("recipe", index)
        if table.steps is None:
            if table.name not in techniques.names():
                raise self._wrong(
                    (*place, "name"),
                    f"{table.name!r} has no 'steps' and is no technique"
                    f"{_nearest(table.name, techniques.names())}",
                )
            tables: tuple[StepTable, ...] = (StepTable(technique=table.name),)
        else:
            tables = table.steps
        steps = tuple(
            self._step((*place, "steps", number), step) for number, step in enumerate(tables)
        )
        self._order(place, steps)
        if index == 0 and [step.technique for step in steps] != ["fp32"]:
            raise self._wrong((*place, "steps"), "the first recipe is the reference: 'fp32' alone")
        return steps

    def _step(self, place: Place, table: StepTable) -> TypedStep:
        known = techniques.names()
        if table.technique not in known:
            raise self._wrong(
                (*place, "technique"),
                f"unknown technique {table.technique!r}{_nearest(table.technique, known)}",
            )
        technique = techniques.find(table.technique)
        if (absent := techniques.missing(technique.REQUIRES)) != ():
            raise self._wrong((*place, "technique"), f"{table.technique}: {_install(absent)}")
        if technique.WORKS_ON == "torch" and self._file.model.python is None:
            raise self._wrong(
                (*place, "technique"),
                f"{table.technique!r} changes and trains a torch module; an ONNX model has none",
            )
        try:
            config: Any = TypeAdapter(technique.Config).validate_python(table.model_extra)
        except ValidationError as error:
            raise self._config(place, technique.Config, error) from error
        if (absent := techniques.missing(techniques.requires(technique, config))) != ():
            raise self._wrong((*place, "technique"), f"{table.technique}: {_install(absent)}")
        if (python := self._file.model.python) is not None:
            promised = techniques.Promised(
                offered=user_model.offered(self._folder / python), inputs=self._file.model.inputs
            )
            if lacks := techniques.lacking(technique, config, promised):
                raise self._wrong((*place, "technique"), f"{table.technique!r}: {lacks}")
        return TypedStep(technique=table.technique, config=config)

    def _config(self, place: Place, config: type, error: ValidationError) -> Invalid:
        first = error.errors()[0]
        if not first["loc"]:  # keys that do not go together
            return self._wrong(place, str(first["msg"]))
        key = str(first["loc"][0])
        if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            keys = list(getattr(config, "__dataclass_fields__", {}))
            return self._wrong((*place, key), f"unknown key{_nearest(key, keys)}")
        return self._wrong((*place, key), f"{first['msg']} (got {first['input']!r})")

    def _order(self, place: Place, steps: tuple[TypedStep, ...]) -> None:
        exported = False
        for number, step in enumerate(steps):
            if step.works_on == "onnx":
                exported = True
            elif exported:
                raise self._wrong(
                    (*place, "steps", number, "technique"),
                    f"{step.technique!r} works on the torch module, so it comes before "
                    f"{steps[number - 1].technique!r}",
                )

    def _device(self) -> None:
        if self._file.train.device == "cpu":
            return
        import torch

        if not torch.cuda.is_available():
            raise self._wrong(("train", "device"), "this machine has no usable CUDA device; 'cpu'")

    def _existing(self, name: Path, place: Place) -> Path:
        path = self._folder / name
        if not path.is_file():
            beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
            raise self._wrong(place, f"no file {str(name)!r}{_nearest(name.name, beside)}")
        return path

    def _wrong(self, place: Place, message: str) -> Invalid:
        return _wrong(self._path, self._text, place, message)


def _wrong(path: Path, text: str, place: Place, message: str) -> Invalid:
    line = toml_file.line_of(text, place)
    dotted = ".".join(str(part) for part in place)
    return Invalid(f"{path}:{line}: {dotted}: {message}", field=dotted)


def _parents_first(recipes: Mapping[str, Recipe]) -> tuple[Recipe, ...]:
    ordered: dict[str, Recipe] = {}

    def place(recipe: Recipe) -> None:
        if recipe.parent is not None and recipe.parent not in ordered:
            place(recipes[recipe.parent])
        ordered.setdefault(recipe.name, recipe)

    for recipe in recipes.values():
        place(recipe)
    return tuple(ordered.values())


def _nearest(word: str, known: Sequence[str] | Mapping[str, Any] | frozenset[str]) -> str:
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.0)
    return f"; nearest: {near[0]!r}" if near else ""


def _install(absent: tuple[str, ...]) -> str:
    extra = "build,nncf" if "nncf" in absent else "build"
    return f"not installed here: {', '.join(absent)}; install gearshift[{extra}]"
