"""TOML files: errors name the file, the line and the nearest valid key."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, field_validator

from variants import toml_file
from variants.errors import Invalid


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Gate(Strict):
    min_accuracy: float = 0.0


class Recipe(Strict):
    name: str
    epochs: int = 1
    gate: Gate | None = None


class Train(Strict):
    epochs: int = 1
    device: Literal["cpu", "cuda"] = "cpu"


class Plan(Strict):
    title: str = "plan"
    train: Train = Train()
    recipes: list[Recipe] = []

    @field_validator("title")
    @classmethod
    def _no_shouting(cls, title: str) -> str:
        if title.isupper():
            raise ValueError("titles are not shouted")
        return title


GOOD = """\
title = "ladder"

[train]
epochs = 6          # passes
device = "cpu"

[[recipes]]
name = "fp16"

[[recipes]]
name = "int8"
epochs = 2
[recipes.gate]
min_accuracy = 0.9
"""


def problem(tmp_path: Path, text: str) -> str:
    path = tmp_path / "plan.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Invalid) as refusal:
        toml_file.load(path, Plan)
    message = str(refusal.value)
    assert "\n" not in message
    return message.removeprefix(f"{tmp_path}/")


def test_a_good_file_becomes_the_model(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(GOOD, encoding="utf-8")
    plan = toml_file.load(path, Plan)
    assert plan.train.epochs == 6
    assert plan.recipes[1].gate == Gate(min_accuracy=0.9)


def test_an_unknown_key_names_line_and_nearest_key(tmp_path: Path) -> None:
    message = problem(tmp_path, GOOD.replace("epochs = 6", "epoch = 6"))
    assert message == "plan.toml:4: train.epoch: unknown key; nearest valid key: 'epochs'"


def test_an_unknown_key_in_the_second_of_several_tables_names_its_own_line(tmp_path: Path) -> None:
    message = problem(tmp_path, GOOD.replace("epochs = 2", "epoc = 2"))
    assert message == "plan.toml:12: recipes.1.epoc: unknown key; nearest valid key: 'epochs'"


def test_a_table_below_one_of_several_tables_is_found(tmp_path: Path) -> None:
    message = problem(tmp_path, GOOD.replace("min_accuracy =", "min_acuracy ="))
    expected = "recipes.1.gate.min_acuracy: unknown key; nearest valid key: 'min_accuracy'"
    assert message == f"plan.toml:14: {expected}"


def test_an_unknown_table_names_its_header(tmp_path: Path) -> None:
    message = problem(tmp_path, GOOD.replace("[train]", "[trian]"))
    assert message == "plan.toml:3: trian: unknown key; nearest valid key: 'train'"


def test_a_wrong_type_names_line_and_what_was_found(tmp_path: Path) -> None:
    message = problem(tmp_path, GOOD.replace("epochs = 6", 'epochs = "six"'))
    assert message.startswith("plan.toml:4: train.epochs: ")
    assert message.endswith("(got 'six')")


def test_a_value_outside_the_choices_lists_them(tmp_path: Path) -> None:
    message = problem(tmp_path, GOOD.replace('"cpu"', '"tpu"'))
    assert message.startswith("plan.toml:5: train.device: ")
    assert "'cpu'" in message
    assert "'cuda'" in message


def test_a_missing_key_names_the_table_it_is_missing_from(tmp_path: Path) -> None:
    message = problem(tmp_path, GOOD.replace('name = "int8"\n', ""))
    assert message.startswith("plan.toml:10: recipes.1.name: Field required")


def test_a_validators_words_are_passed_on(tmp_path: Path) -> None:
    message = problem(tmp_path, GOOD.replace("ladder", "LADDER"))
    assert message == "plan.toml:1: title: titles are not shouted"


def test_dotted_and_quoted_keys_have_lines_too(tmp_path: Path) -> None:
    assert problem(tmp_path, 'title = "x"\ntrain.epochs = "six"\n').startswith("plan.toml:2:")
    assert problem(tmp_path, 'title = "x"\n"trian" = 1\n').startswith("plan.toml:2:")


@pytest.mark.parametrize("content", [b"title = ", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_a_file_that_is_not_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plan.toml"
    path.write_bytes(content)
    with pytest.raises(Invalid, match=r"plan\.toml"):
        toml_file.load(path, Plan)


def test_a_missing_file_or_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="no such file"):
        toml_file.load(tmp_path / "none.toml", Plan)
    with pytest.raises(Invalid, match=str(tmp_path)):
        toml_file.load(tmp_path, Plan)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = " + "[" * 3000, "nested too deep"),
        ("x = " + "[" * 3000 + "]" * 3000, "nested too deep"),
        ("x = " + "{a = " * 3000, "nested too deep"),
        ("x = " + "9" * 5000, "4300 digits"),
        ("title = [[[[1]]]]", "title"),
        ("title = 1\u0000", "plan.toml"),
    ],
)
def test_what_no_reader_can_take_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    assert words in problem(tmp_path, text)
