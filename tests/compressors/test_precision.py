"""Fewer bits: each technique makes the file as small as it says and keeps the answers."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.compressors import trained
from tests.compressors.trained import Trained
from variants import runtimes

RUNTIMES = runtimes.installed()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One trained and exported model for all tests here."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    return trained.toy(tmp_path_factory.mktemp("toy"))


@pytest.mark.parametrize(
    ("name", "config", "size", "cosine"),
    [
        ("fp16", {}, 0.50, 0.99999),
        ("bf16", {}, 0.50, 0.9999),
        ("weight_only", {"bits": 8}, 0.26, 0.9999),
        ("weight_only", {"bits": 8, "group": 32}, 0.29, 0.9999),
        ("weight_only", {"bits": 4}, 0.14, 0.98),
        ("weight_only", {"bits": 4, "group": 32}, 0.17, 0.99),
        ("fp8", {"format": "e4m3"}, 0.26, 0.999),
        ("fp8", {"format": "e5m2"}, 0.26, 0.99),
        ("int8_dynamic", {}, 0.26, 0.999),
    ],
)
def test_a_smaller_file_gives_the_same_answers_on_every_runtime(
    toy: Trained, tmp_path: Path, name: str, config: dict[str, object], size: float, cosine: float
) -> None:
    path = toy.converted(name, tmp_path / "small.onnx", **config)
    assert path.stat().st_size < (size + 0.02) * toy.path.stat().st_size
    for runtime in RUNTIMES:
        assert toy.cosine(path, runtime) > cosine, runtime
        assert toy.accuracy(path, runtime) > toy.accuracy(toy.path, runtime) - 0.02


def test_scales_of_small_groups_keep_4_bit_weights_closer(toy: Trained, tmp_path: Path) -> None:
    whole = toy.converted("weight_only", tmp_path / "whole.onnx", bits=4)
    groups = toy.converted("weight_only", tmp_path / "groups.onnx", bits=4, group=16)
    for runtime in RUNTIMES:
        assert toy.cosine(groups, runtime) > toy.cosine(whole, runtime)


def test_a_clipped_scale_has_less_error_than_the_largest_weight_asks_for() -> None:
    from compressors.techniques.weight_only import quantise

    rows = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    integers, scale = quantise(rows, 4)
    assert np.abs(integers).max() == 7
    plain = np.abs(rows).max(axis=1) / 7
    naive = np.rint(rows / plain[:, None]) * plain[:, None]
    assert ((integers * scale[:, None] - rows) ** 2).mean() < 0.85 * ((naive - rows) ** 2).mean()


def test_a_table_is_stored_small_and_only_its_rows_are_widened(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    from compressors.techniques import fp8, weight_only

    table = np.random.default_rng(1).normal(size=(500, 32)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "words"], ["rows"])],
        "g",
        [helper.make_tensor_value_info("words", TensorProto.INT64, ["n", 4])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 4, 32])],
        [numpy_helper.from_array(table, "table")],
    )
    source, target = tmp_path / "table.onnx", tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), source)
    words = np.array([[0, 7, 499, 3], [1, 1, 2, 250]])
    for technique, config, error in (
        (weight_only, weight_only.Config(), 0.02),
        (weight_only, weight_only.Config(bits=4), 0.4),
        (fp8, fp8.Config(), 0.2),
    ):
        technique.convert(source, target, config, None)  # type: ignore[arg-type]  # no bench needed
        assert target.stat().st_size < 0.35 * source.stat().st_size
        for runtime in RUNTIMES:
            rows = trained.answers(target, runtime, {"words": words})
            assert np.abs(rows - table[words]).max() < error, (technique.__name__, runtime)
