"""A plan is checked whole before any work; each error names file, line and the nearest word."""

from pathlib import Path

import pytest

from compressors import plan as plans
from tests import models
from tests.compressors import plans as written
from variants.errors import Invalid

REFERENCE = '\n[[recipe]]\nname = "fp32"\n'


@pytest.fixture(autouse=True)
def _torch() -> None:
    pytest.importorskip("torch")


def _error(path: Path) -> str:
    with pytest.raises(Invalid) as caught:
        plans.load(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def _line(path: Path, text: str) -> int:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, start=1) if text in line)


def test_a_valid_plan_lists_parents_before_their_children(tmp_path: Path) -> None:
    recipes = REFERENCE + (
        '\n[[recipe]]\nname = "late"\nfrom = "early"\nsteps = [{ technique = "int8" }]\n'
        '\n[[recipe]]\nname = "early"\nsteps = [{ technique = "distilled" }]\n'
    )
    plan = plans.load(written.write(tmp_path, recipes))
    assert [recipe.name for recipe in plan.recipes] == ["fp32", "early", "late"]
    assert [recipe.parent for recipe in plan.recipes] == [None, "fp32", "early"]


def test_a_recipe_without_steps_is_the_technique_of_its_name(tmp_path: Path) -> None:
    plan = plans.load(written.write(tmp_path, REFERENCE + '\n[[recipe]]\nname = "int8"\n'))
    config = plan.recipes[1].steps[0].record.config
    assert config["calibration"] == "minmax" and config["rows"] == 512


@pytest.mark.parametrize(
    ("wrong", "place", "hints"),
    [
        ('name = "x"\nsteps = [{ technique = "int9" }]', "int9", ["unknown technique", "'int8'"]),
        (
            'name = "x"\nsteps = [{ technique = "int8", calibratoin = "minmax" }]',
            "calibratoin",
            ["unknown key", "'calibration'"],
        ),
        (
            'name = "x"\n[[recipe.steps]]\ntechnique = "fp16"\n\n'
            '[[recipe.steps]]\ntechnique = "int8"\nrow = 3',
            "row = 3",
            ["unknown key", "'rows'"],
        ),
        (
            'name = "x"\nsteps = [{ technique = "pruned", ratio = 1.5 }]',
            "ratio = 1.5",
            ["less than 1", "1.5"],
        ),
        (
            'name = "x"\nsteps = [{ technique = "int8", rows = "many" }]',
            "many",
            ["integer", "'many'"],
        ),
        ('name = "x"\nfrom = "fp23"\nsteps = [{ technique = "int8" }]', "fp23", ["'fp32'"]),
        ('name = "x"\nfrom = "x"\nsteps = [{ technique = "int8" }]', "from =", ["circle"]),
        ('name = "int88"', "int88", ["no 'steps'", "'int8'"]),
        ('name = "fp32"', None, ["twice"]),
        ('name = "x"\nstep = [{ technique = "int8" }]', "step =", ["unknown key", "'steps'"]),
        (
            'name = "x"\nsteps = [{ technique = "int8" }, { technique = "pruned" }]',
            "pruned",
            ["comes before 'int8'"],
        ),
        (
            'name = "int8"\n[[recipe]]\nname = "x"\nfrom = "int8"\n'
            'steps = [{ technique = "pruned" }]',
            'from = "int8"',
            ["torch module", "exported file"],
        ),
        ('name = "X Y"', "X Y", ["pattern"]),
    ],
)
def test_each_wrong_recipe_is_one_line_that_names_its_place(
    tmp_path: Path, wrong: str, place: str | None, hints: list[str]
) -> None:
    path = written.write(tmp_path, f"{REFERENCE}\n[[recipe]]\n{wrong}\n")
    message = _error(path)
    for hint in hints:
        assert hint in message
    if place is not None:
        assert message.startswith(f"{path}:{_line(path, place)}: ")


@pytest.mark.parametrize(
    ("old", "new", "hints"),
    [
        ("seed = 3", "sed = 3", ["unknown key", "'seed'"]),
        ("batch_size = 64", "batchsize = 64", ["unknown key", "'batch_size'"]),
        ("epochs = 2", 'epochs = "two"', ["'two'"]),
        ('python = "model.py"', 'python = "modle.py"', ["no file", "'model.py'"]),
        ('python = "model.py"', 'onnx = "model.py"', ["evaluation"]),
        ('name = "toy"', 'name = "toy"\nonnx = "model.py"', ["either"]),
        ('labels = ["a"', 'evaluation = "model.py"\nlabels = ["a"', ["belongs to 'onnx'"]),
        ('dtype = "float32", shape = [4]', 'dtype = "float31", shape = [4]', ["float32"]),
        ("seed = 3", 'seed = 3\n[data]\nfiles = ["rows.npz"]', ["no file", "rows.npz"]),
    ],
)
def test_each_wrong_setting_names_file_line_and_nearest_key(
    tmp_path: Path, old: str, new: str, hints: list[str]
) -> None:
    path = written.write(tmp_path, REFERENCE, written.HEAD.replace(old, new, 1))
    message = _error(path)
    assert message.startswith(f"{path}:")
    assert int(message.removeprefix(f"{path}:").split(":")[0]) > 0
    for hint in hints:
        assert hint in message


def test_the_first_recipe_must_be_the_reference(tmp_path: Path) -> None:
    assert "reference" in _error(written.write(tmp_path, '\n[[recipe]]\nname = "int8"\n'))


def test_a_missing_function_is_found_without_running_the_file(tmp_path: Path) -> None:
    path = written.write(tmp_path, REFERENCE)
    model = tmp_path / "model.py"
    text = model.read_text(encoding="utf-8").replace("def eval_data", "def evaluate_data")
    model.write_text(text + "\nraise RuntimeError('must not run')\n", encoding="utf-8")
    message = _error(path)
    assert "no eval_data()" in message
    assert "'evaluate_data'" in message


def test_distilled_needs_a_student(tmp_path: Path) -> None:
    path = written.write(tmp_path, REFERENCE + '\n[[recipe]]\nname = "distilled"\n')
    model = tmp_path / "model.py"
    text = model.read_text(encoding="utf-8").replace("def build_student", "def student")
    model.write_text(text, encoding="utf-8")
    assert "build_student()" in _error(path)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compressors.techniques import pruned

    monkeypatch.setattr(pruned, "REQUIRES", ("torch", "no_such_library"))
    path = written.write(tmp_path, REFERENCE + '\n[[recipe]]\nname = "pruned"\n')
    message = _error(path)
    assert "no_such_library" in message
    assert "gearshift[build]" in message


def test_a_missing_device_is_named(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    head = written.HEAD.replace("[train]", '[train]\ndevice = "cuda"')
    path = written.write(tmp_path, REFERENCE, head)
    assert _error(path).startswith(f"{path}:{_line(path, 'device')}: train.device")


def test_a_torch_technique_does_not_fit_an_onnx_model(tmp_path: Path) -> None:
    models.tiny_onnx(tmp_path / "model.onnx")
    (tmp_path / "rows.npz").write_bytes(b"")
    path = tmp_path / "plan.toml"
    path.write_text(
        '[model]\nname = "toy"\nonnx = "model.onnx"\nevaluation = "rows.npz"\n'
        f'{REFERENCE}\n[[recipe]]\nname = "pruned"\n',
        encoding="utf-8",
    )
    assert "an ONNX model has none" in _error(path)


def test_only_takes_ancestors_along_and_refuses_unknown_names(tmp_path: Path) -> None:
    plan = plans.load(written.write(tmp_path))
    assert [r.name for r in plan.selected(["distilled+int8"])] == [
        "fp32",
        "distilled",
        "distilled+int8",
    ]
    with pytest.raises(Invalid, match="nearest: 'pruned'"):
        plan.selected(["prunned"])


def test_a_missing_plan_is_one_clear_line(tmp_path: Path) -> None:
    assert _error(tmp_path / "no.toml").endswith("no such file")
