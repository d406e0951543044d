"""What pruning takes away, what it keeps, and that the least important goes first."""

import copy
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torch_pruning = pytest.importorskip("torch_pruning")

from compressors import anatomy, blocks  # noqa: E402  # torch first, or nothing here can run
from compressors.anatomy import Anatomy, Layer  # noqa: E402
from compressors.export import quiet  # noqa: E402
from compressors.gauge import example  # noqa: E402
from compressors.techniques import drop_layers, int8, packed, pruned, sparse  # noqa: E402
from tests.compressors import small_nets  # noqa: E402
from variants import artifact  # noqa: E402
from variants.errors import Invalid  # noqa: E402

ONE = Anatomy(layers=(Layer(name="only", kind="linear", inputs=8, outputs=4),))


def _pruned(x: small_nets.Trained, **config: Any) -> Any:
    return pruned.compress(x.model, pruned.Config(round_to=2, **config), x.bench)


def _random_neurons_removed(seed: int) -> float:
    """Accuracy where half of the widths inside blocks went by chance."""
    x = small_nets.image()
    model = copy.deepcopy(x.model)
    torch.manual_seed(seed)
    kept = [model.stem[0], model.head[2], *(block.inside[3] for block in model.blocks)]
    with quiet():
        torch_pruning.pruner.BasePruner(
            model,
            torch.zeros(2, 1, small_nets.SIDE, small_nets.SIDE),
            importance=torch_pruning.importance.RandomImportance(),
            pruning_ratio=0.5,
            ignored_layers=kept,
            round_to=2,
        ).step()
    return x.accuracy(model)


def test_every_importance_beats_chance_at_equal_widths() -> None:
    x = small_nets.image()
    by_chance = sum(_random_neurons_removed(seed) for seed in range(3)) / 3
    for importance in ("l1", "l2", "taylor"):
        smaller = _pruned(x, widths="inner", epochs=0, importance=importance)
        assert x.accuracy(smaller) > by_chance + 0.1, importance


def test_fine_tuning_brings_accuracy_back() -> None:
    x = small_nets.image()
    raw = _pruned(x, epochs=0)
    tuned = _pruned(x, epochs=2, learning_rate=0.05)
    assert small_nets.count(raw) == small_nets.count(tuned) < 0.3 * small_nets.count(x.model)
    assert x.accuracy(raw) + 0.3 < x.accuracy(tuned) > x.accuracy(x.model) - 0.05


def test_turns_of_pruning_and_fine_tuning_end_at_the_same_widths_and_use_their_training() -> None:
    x = small_nets.image()
    one = _pruned(x, ratio=0.6, epochs=1.5, learning_rate=0.05, importance="taylor")
    three = _pruned(x, ratio=0.6, epochs=3, learning_rate=0.05, importance="taylor", iterations=3)
    assert small_nets.count(one) == small_nets.count(three)
    assert x.accuracy(three) > x.accuracy(one) - 0.03
    assert sum(pruned.shares(3)) == sum(pruned.shares(1)) == 1


def test_global_ranking_leaves_layers_of_different_widths() -> None:
    x = small_nets.image()

    def widths(scope: str) -> list[float]:
        smaller = _pruned(x, scope=scope, widths="inner", importance="taylor", epochs=0)
        return [block.inside[0].out_channels for block in smaller.blocks]

    assert len(set(widths("uniform"))) == 1 < len(set(widths("global")))


def test_inner_pruning_keeps_the_residual_stream() -> None:
    x = small_nets.image()
    smaller = _pruned(x, widths="inner", epochs=0)
    for before, after in zip(x.model.blocks, smaller.blocks, strict=True):
        assert after.inside[3].out_channels == before.inside[3].out_channels
        assert after.inside[0].out_channels < before.inside[0].out_channels


def test_heads_leave_whole_and_the_rest_still_classifies() -> None:
    x = small_nets.tokens()
    smaller = _pruned(
        x, ratio=0.0, head_ratio=0.5, importance="taylor", epochs=0.5, learning_rate=0.002
    )
    for before, after in zip(x.model.layers, smaller.layers, strict=True):
        assert after.attention.num_heads == before.attention.num_heads // 2
        assert after.attention.head_dim == before.attention.head_dim
        assert after.attention.value.out_features == before.attention.value.out_features // 2
        assert after.intermediate.out_features == before.intermediate.out_features
    assert x.accuracy(smaller) > x.accuracy(x.model) - 0.08


def test_no_attention_loses_its_last_head() -> None:
    x = small_nets.tokens()
    smaller = _pruned(x, ratio=0.0, head_ratio=0.99, epochs=0)
    assert [layer.attention.num_heads for layer in smaller.layers] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("image", {"ratio": 0.5, "importance": "taylor", "iterations": 2}),
        ("image", {"ratio": 0.3, "scope": "global"}),
        ("tokens", {"ratio": 0.5, "head_ratio": 0.5, "widths": "inner"}),
        ("tokens", {"ratio": 0.5, "head_ratio": 0.25}),
    ],
)
def test_a_later_build_gives_the_pruned_answers(task: str, settings: dict[str, Any]) -> None:
    x = getattr(small_nets, task)()
    config = pruned.Config(round_to=2, epochs=0.2, **settings)
    smaller = pruned.compress(x.model, config, x.bench)
    x.assert_rebuilds(pruned, config, x.model, smaller)
    again = pruned.compress(smaller, config, x.bench)
    x.assert_rebuilds(pruned, config, smaller, again)


def test_half_the_channels_make_the_file_smaller_and_the_runtime_faster() -> None:
    x, before = small_nets.wide()
    smaller = _pruned(x, ratio=0.5, epochs=0)
    after = x.onnx(smaller, "half")
    assert after.stat().st_size < 0.35 * before.stat().st_size
    assert small_nets.multiplications(x, smaller) < 0.3 * small_nets.multiplications(x, x.model)
    assert small_nets.latency_ratio(x, before, after) > 1.5


def test_pruning_is_refused_where_nothing_can_go() -> None:
    assert "no layer to prune" in pruned.unsuitable(ONE, pruned.Config())
    image = anatomy.of_module(small_nets.image().model)
    assert pruned.unsuitable(image, pruned.Config()) == ""
    assert "no attention" in pruned.unsuitable(image, pruned.Config(head_ratio=0.5))
    assert "both" in pruned.unsuitable(image, pruned.Config(ratio=0))
    tokens = anatomy.of_module(small_nets.tokens().model)
    assert pruned.unsuitable(tokens, pruned.Config(head_ratio=0.5)) == ""


def _sparse(x: small_nets.Trained, **config: Any) -> Any:
    settings = {"learning_rate": 0.05, "min_elements": 64, **config}
    return sparse.compress(x.model, sparse.Config(**settings), x.bench)


def _zeros(model: Any) -> list[float]:
    """Share of zeros in each linear or convolutional layer."""
    kinds = torch.nn.Linear | torch.nn.Conv2d
    return [float((m.weight == 0).float().mean()) for m in model.modules() if isinstance(m, kinds)]


def test_magnitude_beats_chance_at_equal_sparsity() -> None:
    x = small_nets.image()
    by_magnitude = _sparse(x, sparsity=0.6, scope="layer", epochs=0)
    by_chance = copy.deepcopy(x.model)
    torch.manual_seed(0)
    for layer in by_chance.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            layer.weight.data *= sparse.largest(torch.rand_like(layer.weight), 0.6)
    assert _zeros(by_magnitude) == pytest.approx(_zeros(by_chance), abs=0.01)
    assert x.accuracy(by_magnitude) > x.accuracy(by_chance) + 0.3


def test_given_time_zeros_that_come_little_by_little_beat_zeros_at_once() -> None:
    x = small_nets.image()
    lessons = [replace(x, bench=replace(x.bench, seed=seed)) for seed in range(3)]
    settings = {"sparsity": 0.95, "scope": "layer", "epochs": 6}
    at_once, rising = (
        [_sparse(lesson, updates=updates, **settings) for lesson in lessons] for updates in (1, 10)
    )
    zeros = {min(_zeros(model)) for model in (*at_once, *rising)}
    assert len(zeros) == 1
    assert min(zeros) > 0.93
    assert fmean(map(x.accuracy, rising)) > fmean(map(x.accuracy, at_once)) + 0.03


def test_global_zeros_spare_the_layers_that_need_their_weights() -> None:
    x = small_nets.image()
    uniform, everywhere = (
        _sparse(x, sparsity=0.9, scope=scope, epochs=0) for scope in ("layer", "global")
    )
    assert max(_zeros(uniform)) - min(_zeros(uniform)) < 0.02
    assert max(_zeros(everywhere)) - min(_zeros(everywhere)) > 0.1
    assert x.accuracy(everywhere) > x.accuracy(uniform) + 0.1


def test_two_of_four_inputs_stay_in_every_group() -> None:
    x = small_nets.image()
    model = _sparse(x, pattern="2:4", epochs=0.5)
    weight = model.blocks[0].inside[0].weight  # [outputs, inputs, 3, 3]
    groups = weight.movedim(1, -1).reshape(-1, 4)
    assert ((groups != 0).sum(1) == 2).all()
    assert x.accuracy(model) > x.accuracy(x.model) - 0.03


def test_the_share_of_zeros_rises_as_published() -> None:
    # Zhu and Gupta, equation 1, from 0 to the wanted share.
    assert [sparse.rising(t) for t in (0, 0.5, 1)] == [0, 0.875, 1]


def test_zeros_outlive_a_later_build() -> None:
    x = small_nets.image()
    config = sparse.Config(sparsity=0.8, epochs=0.2)
    x.assert_rebuilds(sparse, config, x.model, sparse.compress(x.model, config, x.bench))


def test_packed_zeros_leave_bytes_and_answers(tmp_path: Path) -> None:
    x = small_nets.image()
    torch.manual_seed(0)
    wide = small_nets.ImageNet(channels=64).eval()
    model = sparse.compress(wide, sparse.Config(sparsity=0.9, epochs=0), x.bench)
    dense, small = x.onnx(model, "dense"), tmp_path / "small.onnx"
    packed.convert(dense, small, packed.Config(), x.bench)
    artifact.check_onnx(small)
    # 1/32 for the bits and 1/10 for the values, and the graph's own bytes.
    assert small.stat().st_size < 0.2 * dense.stat().st_size
    for runtime in ("onnxruntime", "openvino"):
        if runtime == "openvino":
            pytest.importorskip("openvino")
        a, b = (small_nets.run(x, path, runtime) for path in (dense, small))
        assert np.array_equal(a, b)
    assert small_nets.latency_ratio(x, dense, small) > 0.6


def test_packed_int8_weights_leave_answers(tmp_path: Path) -> None:
    x = small_nets.image()
    model = sparse.compress(x.model, sparse.Config(sparsity=0.9, epochs=0), x.bench)
    dense, quantised, both = (tmp_path / f"{n}.onnx" for n in ("dense", "int8", "both"))
    x.onnx(model, "sparse").rename(dense)
    int8.convert(dense, quantised, int8.Config(), x.bench)
    packed.convert(quantised, both, packed.Config(), x.bench)
    artifact.check_onnx(both)
    assert both.stat().st_size < 0.75 * quantised.stat().st_size
    a, b = (small_nets.run(x, path, "onnxruntime") for path in (quantised, both))
    assert np.array_equal(a, b)


def test_packing_is_refused_where_nothing_is_zero(tmp_path: Path) -> None:
    x = small_nets.image()
    with pytest.raises(Invalid, match="sparse"):
        packed.convert(x.onnx(x.model, "full"), tmp_path / "out.onnx", packed.Config(), x.bench)
    assert "min_elements" in sparse.unsuitable(ONE, sparse.Config())
    assert packed.unsuitable(Anatomy(layers=()), packed.Config()) != ""


def _shorter(x: small_nets.Trained, **config: Any) -> Any:
    return drop_layers.compress(x.model, drop_layers.Config(**config), x.bench)


def test_blocks_are_found_by_what_they_keep() -> None:
    for x, names in ((small_nets.tokens(), "layers"), (small_nets.image(), "blocks")):
        found = blocks.droppable(x.model, example(x.bench))
        assert found == [f"{names}.{i}" for i in range(len(found))] and len(found) >= 3
        assert anatomy.of_module(x.model, example(x.bench)).droppable_blocks == len(found)


def test_blocks_that_change_least_leave_more_than_every_other_block() -> None:
    x = small_nets.image()
    noted: dict[str, float] = {}
    bench = replace(
        x.bench, note_sensitivity=lambda layer, metric, value: noted.update({layer: value})
    )
    config = drop_layers.Config(ratio=0.6, epochs=0)
    measured = drop_layers.compress(x.model, config, bench)
    alternate = _shorter(x, ratio=0.6, choose="alternate", epochs=0)
    assert small_nets.count(measured) == small_nets.count(alternate)
    assert x.accuracy(measured) > x.accuracy(alternate) + 0.2
    assert sorted(noted) == ["blocks.0", "blocks.1", "blocks.2"]


def test_what_is_left_learns_the_work_of_the_dropped_blocks() -> None:
    x = small_nets.image()
    raw = _shorter(x, ratio=0.6, epochs=0)
    for soft_share in (0.0, 0.5):
        tuned = _shorter(x, ratio=0.6, epochs=1, learning_rate=0.05, soft_share=soft_share)
        assert x.accuracy(raw) + 0.03 < x.accuracy(tuned) > x.accuracy(x.model) - 0.05


def test_half_the_blocks_make_the_runtime_faster() -> None:
    x, before = small_nets.wide()
    after = x.onnx(_shorter(x, ratio=0.6, epochs=0), "shorter")
    assert after.stat().st_size < 0.5 * before.stat().st_size
    assert small_nets.latency_ratio(x, before, after) > 1.4


def test_dropped_blocks_and_then_narrower_ones_rebuild_in_a_later_build() -> None:
    x = small_nets.tokens()
    first = drop_layers.Config(ratio=0.5, epochs=0)
    shorter = drop_layers.compress(x.model, first, x.bench)
    x.assert_rebuilds(drop_layers, first, x.model, shorter)
    once_more = drop_layers.compress(shorter, first, x.bench)
    x.assert_rebuilds(drop_layers, first, shorter, once_more)
    second = pruned.Config(ratio=0.5, head_ratio=0.5, widths="inner", round_to=4, epochs=0)
    both = pruned.compress(shorter, second, x.bench)
    x.assert_rebuilds(pruned, second, shorter, both)
    assert small_nets.count(both) < small_nets.count(shorter) < 0.6 * small_nets.count(x.model)


def test_dropping_is_refused_where_nothing_repeats() -> None:
    assert "two are needed" in drop_layers.unsuitable(ONE, drop_layers.Config())
