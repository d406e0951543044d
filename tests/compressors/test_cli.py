"""The two commands: exit status, and JSON alone on standard output."""

import json
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from compressors import cli
from tests.compressors import plans as written
from tests.compressors.conftest import Ladder
from tests.compressors.test_build import FP32
from variants.cost import Prices
from variants.data_folder import DataFolder, open_data_folder

PRICES = Prices(core_hour_usd=0.05, gib_hour_usd=0.005)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the program around the commands offers."""

    data_dir: Path
    prices: Prices

    def open_data(self) -> AbstractContextManager[DataFolder]:
        return open_data_folder(self.data_dir)


def _run(data_dir: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    app = typer.Typer()
    cli.register(app)
    result = CliRunner().invoke(
        app, arguments, catch_exceptions=False, obj=Settings(data_dir=data_dir, prices=PRICES)
    )
    return result.exit_code, result.stdout, result.stderr


def test_a_wrong_plan_ends_with_2_and_one_line(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text("sed = 1\n", encoding="utf-8")
    status, out, err = _run(tmp_path / "data", "build", str(plan))
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert not (tmp_path / "data").exists(), "nothing is made for a wrong plan"


def test_a_refused_recipe_ends_with_1_and_json_lines_say_why(tmp_path: Path) -> None:
    written.onnx(tmp_path, FP32 + '[[recipe]]\nname = "fp16"\n', "[gates]\nmin_accuracy = 1.0")
    status, out, _ = _run(tmp_path / "data", "build", str(tmp_path / "plan.toml"), "--json")
    assert status == 1
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["status"] for line in lines] == ["refused", "failed"]
    assert "min_accuracy" in lines[0]["reason"]
    assert lines[0]["accuracy"]["n"] == 80


def test_a_good_build_ends_with_0_and_then_skips(tmp_path: Path) -> None:
    written.onnx(tmp_path, FP32)
    build = (tmp_path / "data", "build", str(tmp_path / "plan.toml"))
    assert _run(*build)[0] == 0
    status, out, _ = _run(*build, "--json")
    assert (status, json.loads(out)["status"]) == (0, "skipped")


def test_an_unknown_recipe_name_ends_with_2(ladder: Ladder, tmp_path: Path) -> None:
    status, _, err = _run(tmp_path, "build", str(ladder.plan.path), "--only", "int9")
    assert status == 2
    assert "'int8'" in err


def test_report_prints_a_json_list_and_nothing_else(ladder: Ladder) -> None:
    status, out, _ = _run(ladder.folder.root, "report", "--json")
    assert status == 0
    assert {entry["variant"] for entry in json.loads(out)} >= set(ladder.outcomes)


def test_report_writes_the_pages_where_it_is_told(ladder: Ladder, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    status, out, _ = _run(ladder.folder.root, "report", "--out", str(tmp_path / "out"))
    assert status == 0
    assert "distilled+int8" in out
    names = ["index.html", "pareto.png", "toy.html"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, typer; from compressors import cli\n"
        "app = typer.Typer(); cli.register(app)\n"
        "try: app(['build', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'matplotlib', 'onnx', 'onnxruntime', 'openvino', 'sqlalchemy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)
