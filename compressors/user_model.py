"""The user's Python file: the functions it offers, found by reading and called after loading.

A model file is a plain module next to the plan. All arrays are NumPy.

Required
- `build_model() -> torch.nn.Module`: maps inputs `[batch, …]`, in the order of the plan's
  `inputs`, to logits `[batch, classes] float32`. Fresh, or with its own trained weights loaded.
- `train_data() -> (inputs, labels)`: `inputs` is one array `[n, …]`, or a dict of such arrays by
  input name, in the dtype that the plan states; `labels` is `[n] int64`.
- `eval_data() -> (inputs, labels)`: rows for the reported accuracy, never used for training,
  calibration or choosing.
- `calibration_data() -> inputs`: a few hundred rows without labels, taken from the training data.

Optional
- `selection_data() -> (inputs, labels)`: rows for gates. Without it the last tenth of the training
  rows is held out.
- `build_student() -> torch.nn.Module`: the smaller network of the technique `distilled`.
- `augment(inputs) -> inputs`: a random change of one torch training batch that keeps its labels.
  With a second parameter it is told the share of the training that is done, from 0 to 1.
- `tokenizer() -> Path`: a text model's `tokenizer.json`, where the plan names none; the rows are
  made with `compressors.texts.encode`.
- `labels() -> list[str]`: class names, where the plan has none.
- `note() -> str`: a remark about the data for the results, such as "a smaller set was used".

    model = user_model.load(Path("model.py"))
    module = model.call("build_model")
"""

import ast
import importlib.util
import inspect
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from variants.errors import GearshiftError, Invalid

REQUIRED = ("build_model", "train_data", "eval_data", "calibration_data")
OPTIONAL = ("selection_data", "build_student", "augment", "tokenizer", "labels", "note")


class UserCodeFailed(GearshiftError):
    """A function of the user's file raised; the message says which, where and what."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UserModel:
    """A loaded model file."""

    path: Path
    module: ModuleType

    def offers(self, function: str) -> bool:
        """Whether the file has this function."""
        return callable(getattr(self.module, function, None))

    def parameters(self, function: str) -> int:
        """How many positional parameters the file's function takes."""
        return len(inspect.signature(getattr(self.module, function)).parameters)

    def call(self, function: str, *arguments: Any) -> Any:
        """The function's result. Raises `UserCodeFailed` naming file, line and error."""
        try:
            return getattr(self.module, function)(*arguments)
        except GearshiftError:
            raise
        except Exception as error:
            raise _failure(self.path, error, f"{function}()") from error


def offered(path: Path) -> frozenset[str]:
    """Names defined at the file's top level, without running it.

    Raises `Invalid` where the file is missing or is not Python.
    """
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (OSError, SyntaxError, ValueError) as error:
        raise Invalid(f"{path}: {error}", field="model.python") from error
    found: set[str] = set()
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.ImportFrom(names=aliases):
                found.update(alias.asname or alias.name for alias in aliases)
            case ast.Assign(targets=targets):
                found.update(target.id for target in targets if isinstance(target, ast.Name))
    return frozenset(found)


def load(path: Path) -> UserModel:
    """Run the file as a module of its own. Raises `UserCodeFailed` where that fails."""
    spec = importlib.util.spec_from_file_location(f"gearshift_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise Invalid(f"{path}: not a Python file", field="model.python")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _failure(path, error, "loading it") from error
    return UserModel(path=path, module=module)


def _failure(path: Path, error: Exception, doing: str) -> UserCodeFailed:
    """The user's error with the deepest line of the user's own file."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    where = f"{path}:{line}" if line else str(path)
    return UserCodeFailed(f"{where}: {doing} raised {type(error).__name__}: {error}")
