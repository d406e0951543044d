"""Fewer bits: each technique makes the file as small as it says and keeps the answers."""

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressors import plan as plans
from tests.compressors import plans as written
from tests.compressors import trained
from tests.compressors.trained import Trained
from variants import runtimes
from variants.errors import Invalid

RUNTIMES = runtimes.installed()
NEEDS_NNCF = pytest.mark.skipif(find_spec("nncf") is None, reason="nncf is not installed")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One trained and exported model for all tests here."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    return trained.toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A task on which bits count: a narrow network that is right nine times of ten."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    return trained.hard(tmp_path_factory.mktemp("hard"))


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
        ("int8", {}, 0.26, 0.999),
        ("int8", {"per_channel": False}, 0.26, 0.999),
        pytest.param("int8", {"quantizer": "nncf"}, 0.26, 0.998, marks=NEEDS_NNCF),
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


def _with_outliers(toy: Trained) -> Trained:
    """64 calibration rows, of which a late one is 200 times as large as it should be."""
    rows = toy.bench.data.calibration["image"][:64].copy()
    rows[50] *= 200
    return toy.calibrated_with({"image": rows})


@pytest.mark.parametrize(
    "config", [{"calibration": "percentile", "percentile": 98.0}, {"calibration": "entropy"}]
)
def test_ranges_that_cut_outliers_off_beat_the_extremes(
    toy: Trained, tmp_path: Path, config: dict[str, object]
) -> None:
    odd = _with_outliers(toy)
    extremes = odd.converted("int8", tmp_path / "extremes.onnx")
    cut = odd.converted("int8", tmp_path / "cut.onnx", **config)
    for runtime in RUNTIMES:
        assert 1 - toy.cosine(cut, runtime) < 0.7 * (1 - toy.cosine(extremes, runtime))


def test_the_most_sensitive_layer_in_float_brings_the_answers_back(
    toy: Trained, tmp_path: Path
) -> None:
    noted: list[tuple[str, str, float]] = []
    odd = _with_outliers(toy)
    odd = replace(odd, bench=replace(odd.bench, note_sensitivity=lambda *note: noted.append(note)))
    files = [
        odd.converted("int8", tmp_path / f"keep-{count}.onnx", keep_float=count)
        for count in (0, 1, 2)
    ]
    assert len({layer for layer, _, _ in noted}) == 3
    assert {metric for _, metric, _ in noted} == {"relative_output_error"}
    assert all(value > 0 for _, _, value in noted)
    for runtime in RUNTIMES:
        errors = [1 - toy.cosine(path, runtime) for path in files]
        assert errors[1] < 0.8 * errors[0]
        assert errors[2] < 0.8 * errors[1]


@NEEDS_NNCF
def test_smooth_quant_saves_a_network_with_outlier_channels(tmp_path: Path) -> None:
    """On ONNX Runtime: OpenVINO's answers to either of these files change from run to run."""
    pytest.importorskip("onnxscript")
    wide = trained.with_outlier_channels(tmp_path)
    plain = wide.converted("int8", tmp_path / "plain.onnx")
    smooth = wide.converted("int8", tmp_path / "smooth.onnx", quantizer="nncf", smooth_quant=0.5)
    runtime = "onnxruntime"
    assert 1 - wide.cosine(smooth, runtime) < 0.5 * (1 - wide.cosine(plain, runtime))


def test_keys_that_do_not_go_together_are_refused_in_the_plan(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    steps = 'steps = [{ technique = "int8", smooth_quant = 0.5 }]'
    recipes = f'{trained.ONLY_FP32}[[recipe]]\nname = "smooth"\n{steps}\n'
    with pytest.raises(Invalid, match="smooth_quant needs quantizer = 'nncf'"):
        plans.load(written.write(tmp_path, recipes))


def test_a_plan_cannot_keep_every_layer_in_float(toy: Trained) -> None:
    from compressors import anatomy
    from compressors.techniques import int8

    found = anatomy.of_onnx(toy.path)
    assert int8.unsuitable(found, int8.Config(keep_float=2)) == ""
    assert "leaves none of 3 layers" in int8.unsuitable(found, int8.Config(keep_float=3))


def _right(hard: Trained, module: Any) -> float:
    """Share of the test rows that the module gets right in torch."""
    return float((_logits(hard, module).argmax(1) == hard.bench.data.test.labels).mean())


def _logits(hard: Trained, module: Any) -> np.ndarray:
    import torch

    with torch.inference_mode():
        found = module(torch.from_numpy(hard.bench.data.test.inputs["image"]))
    return np.asarray(found.numpy())


def test_training_with_the_rounding_beats_rounding_afterwards_at_equal_bits(
    hard: Trained, tmp_path: Path
) -> None:
    afterwards = hard.compressed("qat", bits=2, epochs=0)
    trained_so = hard.compressed("qat", bits=2, epochs=2, learning_rate=0.05)
    assert _right(hard, trained_so) > _right(hard, afterwards) + 0.03
    path = hard.exported(trained_so, tmp_path / "qat.onnx")
    for runtime in RUNTIMES:
        assert hard.accuracy(path, runtime) == pytest.approx(_right(hard, trained_so), abs=0.01)


@pytest.mark.parametrize(("bits", "size"), [(8, 0.27), (4, 0.15), (2, 0.07)])
def test_rounded_weights_are_stored_in_their_bits_and_serve_as_they_were_trained(
    toy: Trained, tmp_path: Path, bits: int, size: float
) -> None:
    module = toy.compressed("qat", bits=bits, epochs=0.5, learning_rate=0.01)
    path = toy.exported(module, tmp_path / "qat.onnx")
    assert path.stat().st_size < size * toy.path.stat().st_size
    here = _logits(toy, module)
    for runtime in RUNTIMES:
        there = trained.answers(path, runtime, toy.bench.data.test.inputs)
        assert np.abs(there - here).max() < 0.02 * np.abs(here).max()


@pytest.mark.parametrize(
    ("technique", "config"),
    [("qat", {"bits": 4}), ("binary", {"kind": "binary"}), ("binary", {"kind": "ternary"})],
)
def test_stored_weights_fill_a_rebuilt_module(
    hard: Trained, tmp_path: Path, technique: str, config: dict[str, object]
) -> None:
    import torch

    from compressors import techniques, weights

    module = hard.compressed(technique, epochs=0.1, **config)
    weights.save(module, tmp_path / "kept.safetensors")
    found = techniques.find(technique)
    assert found.WORKS_ON == "torch"
    shapes = weights.shapes(tmp_path / "kept.safetensors")
    fresh = found.rebuild(hard.module, found.Config(epochs=0.1, **config), shapes, hard.bench)
    weights.load(fresh, tmp_path / "kept.safetensors")
    assert np.array_equal(_logits(hard, fresh), _logits(hard, module))
    assert not torch.equal(hard.module[0].weight, fresh.get_parameter("0.weight"))


def test_batch_normalisation_is_folded_without_a_change_of_the_answers(hard: Trained) -> None:
    import torch
    from torch import nn

    from compressors import rounded_layers

    folded = rounded_layers.without_batch_norms(hard.module, (torch.zeros(2, 1, 8, 8),))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert np.allclose(_logits(hard, folded), _logits(hard, hard.module), atol=1e-3)


@pytest.mark.parametrize(("kind", "size"), [("binary", 0.06), ("ternary", 0.08)])
def test_one_bit_weights_need_training_and_are_stored_as_bits(
    toy: Trained, hard: Trained, tmp_path: Path, kind: str, size: float
) -> None:
    raw = hard.compressed("binary", kind=kind, epochs=0)
    taught = hard.compressed("binary", kind=kind, epochs=2, learning_rate=0.05)
    assert _right(hard, taught) > _right(hard, raw) + 0.05
    assert _right(hard, taught) > _right(hard, hard.module) - 0.06
    module = toy.compressed("binary", kind=kind, epochs=1)
    path = toy.exported(module, tmp_path / "bits.onnx")
    assert path.stat().st_size < size * toy.path.stat().st_size
    here = _logits(toy, module)
    for runtime in RUNTIMES:
        there = trained.answers(path, runtime, toy.bench.data.test.inputs)
        assert np.abs(there - here).max() < 0.02 * np.abs(here).max()


def test_rounding_comes_last_in_a_chain(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    from compressors.build import build
    from variants.data_folder import open_data_folder

    recipes = f"""{trained.ONLY_FP32}
[[recipe]]
name = "small"
steps = [
  {{ technique = "pruned", ratio = 0.5, round_to = 4, epochs = 0.5 }},
  {{ technique = "qat", bits = 4, epochs = 0.5 }},
]
"""
    plan = plans.load(written.write(tmp_path, recipes))
    with open_data_folder(tmp_path / "data") as folder:
        fp32, small = build(plan, folder)
    assert fp32.manifest is not None and small.manifest is not None, small.reason
    assert small.manifest.artifact.size_bytes < 0.1 * fp32.manifest.artifact.size_bytes
    assert small.manifest.accuracy is not None and small.manifest.accuracy.value > 0.9
