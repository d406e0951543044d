"""Layers in factors: exact where nothing is cut, close where little is, and tuned afterwards."""

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorly")

from compressors import anatomy, factors, ranks, training  # noqa: E402  # torch first, or nothing can run
from compressors.anatomy import Anatomy, Layer  # noqa: E402
from compressors.techniques import cp, low_rank, pruned, separable, tensor_train, tucker  # noqa: E402
from tests.compressors import small_nets  # noqa: E402
from variants.errors import Invalid  # noqa: E402

TRAIN_OF_CONVS: dict[str, Any] = {"layers": "conv", "min_features": 16}
OF_CONVS = [(tucker, {}), (cp, {}), (tensor_train, TRAIN_OF_CONVS)]
LINEAR = Anatomy(layers=(Layer(name="only", kind="linear", inputs=64, outputs=64),))


def _made(technique: Any, x: small_nets.Trained, **config: Any) -> Any:
    return technique.compress(x.model, technique.Config(**config), x.bench)


@pytest.mark.parametrize(("technique", "extra"), OF_CONVS)
def test_fine_tuned_convolutions_in_factors_beat_the_raw_ones(
    technique: Any, extra: dict[str, Any]
) -> None:
    x = small_nets.image()
    config = technique.Config(size_ratio=0.25, epochs=1, **extra)
    raw = technique.compress(x.model, replace(config, epochs=0), x.bench)
    tuned = technique.compress(x.model, config, x.bench)
    assert small_nets.count(raw) == small_nets.count(tuned) < 0.35 * small_nets.count(x.model)
    assert x.accuracy(tuned) > x.accuracy(raw) + 0.05
    assert x.accuracy(tuned) > x.accuracy(x.model) - 0.15
    x.assert_rebuilds(technique, config, x.model, tuned)


def test_fine_tuned_linear_layers_in_factors_beat_the_raw_ones() -> None:
    x = small_nets.tokens()
    settings: dict[str, Any] = {"rank_by": "ratio", "learning_rate": 0.003}
    raw = _made(low_rank, x, epochs=0, **settings)
    tuned = _made(low_rank, x, epochs=1, **settings)
    assert small_nets.count(raw) == small_nets.count(tuned) < 0.5 * small_nets.count(x.model)
    assert x.accuracy(x.model) - 0.1 < x.accuracy(tuned) > x.accuracy(raw) + 0.02


@pytest.mark.parametrize(
    ("task", "technique", "settings", "gain"),
    [
        ("image", tucker, {"size_ratio": 0.25}, 0.1),
        ("image", tensor_train, {"size_ratio": 0.5, **TRAIN_OF_CONVS}, 0.1),
        ("tokens", tensor_train, {"size_ratio": 0.3}, 0.1),
        ("tokens", low_rank, {"max_rank_ratio": 0.25}, 0.01),
    ],
)
def test_ranks_by_sensitivity_beat_equal_ranks_at_equal_size(
    task: str, technique: Any, settings: dict[str, Any], gain: float
) -> None:
    x = getattr(small_nets, task)()
    noted: dict[str, float] = {}
    bench = replace(
        x.bench, note_sensitivity=lambda layer, metric, value: noted.update({layer: value})
    )
    config = technique.Config(epochs=0, rank_by="ratio", **settings)
    equal = technique.compress(x.model, config, bench)
    assert not noted
    config = replace(config, rank_by="sensitivity")
    chosen = technique.compress(x.model, config, bench)
    assert small_nets.count(chosen) <= small_nets.count(equal)
    assert x.accuracy(chosen) > x.accuracy(equal) + gain
    assert noted and min(noted.values()) >= 0
    x.assert_rebuilds(technique, config, x.model, chosen)


def test_more_energy_keeps_more_weights_and_answers() -> None:
    x = small_nets.image()
    some, most = (_made(tucker, x, rank_by="energy", energy=e, epochs=0) for e in (0.6, 0.9))
    assert small_nets.count(some) < small_nets.count(most) < small_nets.count(x.model)
    assert x.accuracy(some) < x.accuracy(most) > x.accuracy(x.model) - 0.05


def test_nothing_is_lost_where_nothing_is_cut() -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(16, 24, (3, 5), stride=(2, 1), padding=(1, 2))
    picture = torch.randn(2, 16, 9, 11)
    train = tensor_train.method(tensor_train.Config(min_features=2))
    for method in (tucker.method(tucker.Config()), train):
        full = tuple(min(matrix.shape) for matrix in method.unfoldings(conv))
        assert torch.allclose(method.made(conv, full)(picture), conv(picture), atol=1e-4)
    linear = torch.nn.Linear(48, 36)
    rows = torch.randn(2, 5, 48)
    for cores in (2, 3):
        train = tensor_train.method(tensor_train.Config(min_features=2, cores=cores))
        full = tuple(min(matrix.shape) for matrix in train.unfoldings(linear))
        assert torch.allclose(train.made(linear, full)(rows), linear(rows), atol=1e-4)


def test_cp_finds_a_kernel_of_low_rank() -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(16, 24, 3, padding=1)
    parts = (torch.randn(size, 4) for size in (24, 16, 3, 3))
    with torch.no_grad():
        conv.weight.copy_(torch.einsum("or,ir,yr,xr->oiyx", *parts))
    picture = torch.randn(2, 16, 9, 9)
    error = cp.method(cp.Config()).made(conv, (6,))(picture) - conv(picture)
    assert error.norm() < 0.1 * conv(picture).norm()


@pytest.mark.parametrize("noise", [0.05, 0.2, 0.5])
def test_vbmf_finds_the_rank_under_noise(noise: float) -> None:
    torch.manual_seed(0)
    product = torch.randn(60, 7) @ torch.randn(7, 90) / 7**0.5
    assert ranks.by_vbmf(product + noise * torch.randn(60, 90)) == 7
    assert ranks.by_vbmf((product + noise * torch.randn(60, 90)).T) == 7


def test_weights_go_where_they_take_most_harm_away() -> None:
    def options(*harms: float) -> list[factors.Option]:
        return [
            factors.Option(of=(size,), weights=size, harm=harm)
            for size, harm in zip((10, 20, 40), harms, strict=True)
        ]

    found = factors.allocated({"a": options(9, 1, 0), "b": options(2, 1, 0)}, 45)
    assert {name: option.weights for name, option in found.items()} == {"a": 20, "b": 20}
    assert factors.allocated({"a": options(9, 1, 0)}, 5)["a"].weights == 10


def test_a_train_of_three_cores_survives_export_and_is_small() -> None:
    x = small_nets.image()
    torch.manual_seed(0)
    flat = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(small_nets.SIDE**2, 512),
        torch.nn.ReLU(),
        torch.nn.Linear(512, small_nets.CLASSES),
    ).eval()
    config = tensor_train.Config(cores=3, size_ratio=0.1, epochs=0)
    smaller = tensor_train.compress(flat, config, x.bench)
    x.assert_rebuilds(tensor_train, config, flat, smaller)
    before, after = x.onnx(flat, "whole"), x.onnx(smaller, "train")
    assert after.stat().st_size < 0.25 * before.stat().st_size
    answers = small_nets.run(x, after, "onnxruntime")
    assert abs(answers - x.answers(smaller).numpy()).max() < 1e-3


def test_thin_factors_are_faster_on_the_runtime() -> None:
    x, before = small_nets.wide()
    smaller = _made(tucker, x, size_ratio=0.15, epochs=0)
    after = x.onnx(smaller, "tucker")
    assert after.stat().st_size < 0.3 * before.stat().st_size
    assert small_nets.multiplications(x, smaller) < 0.3 * small_nets.multiplications(x, x.model)
    assert small_nets.latency_ratio(x, before, after) > 1.2


def test_factors_then_narrower_layers_rebuild_in_a_later_build() -> None:
    x = small_nets.tokens()
    first = low_rank.Config(rank_by="ratio", epochs=0)
    thin = low_rank.compress(x.model, first, x.bench)
    second = pruned.Config(ratio=0.25, round_to=4, widths="inner", epochs=0.1, learning_rate=1e-3)
    both = pruned.compress(thin, second, x.bench)
    assert small_nets.count(both) < small_nets.count(thin)
    again = low_rank.rebuild(
        x.model, first, {k: tuple(v.shape) for k, v in thin.state_dict().items()}, x.bench
    )
    x.assert_rebuilds(pruned, second, again, both)


def test_factors_are_refused_where_nothing_suits() -> None:
    for technique in (tucker, cp, separable):
        assert "no convolution" in technique.unsuitable(LINEAR, technique.Config())
    assert "no convolution" in tensor_train.unsuitable(LINEAR, tensor_train.Config(layers="conv"))
    assert tensor_train.unsuitable(LINEAR, tensor_train.Config()) == ""
    image = anatomy.of_module(small_nets.image().model)
    assert tucker.unsuitable(image, tucker.Config()) == ""
    assert "24" in tucker.unsuitable(image, tucker.Config(min_channels=64))
    assert "min_features" in low_rank.unsuitable(image, low_rank.Config(min_features=64))


def test_separable_convolutions_start_from_the_trained_ones() -> None:
    x = small_nets.image()
    config = separable.Config(epochs=2, learning_rate=0.05)
    taught = separable.compress(x.model, config, x.bench)
    x.assert_rebuilds(separable, config, x.model, taught)
    kind = separable.method(config)
    wanted = {name: (layer.in_channels,) for name, layer in kind.layers(x.model)}
    torch.manual_seed(1)
    by_chance = factors.replaced(x.model, replace(kind, fill=lambda form, layer: None), wanted)
    training.fit(by_chance, x.bench, epochs=2, learning_rate=0.05)
    assert small_nets.count(taught) == small_nets.count(by_chance)
    assert small_nets.count(taught) < 0.3 * small_nets.count(x.model)
    assert x.accuracy(taught) > x.accuracy(by_chance) + 0.03


def test_separable_convolutions_with_every_kernel_are_exact() -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(16, 24, 3, stride=2, padding=1)
    picture = torch.randn(2, 16, 9, 9)
    assert torch.allclose(
        separable.method(separable.Config()).made(conv, (16 * 9,))(picture),
        conv(picture),
        atol=1e-4,
    )


def test_separable_convolutions_are_faster_on_the_runtime() -> None:
    x, before = small_nets.wide()
    after = x.onnx(_made(separable, x, epochs=0), "separable")
    assert after.stat().st_size < 0.3 * before.stat().st_size
    assert small_nets.latency_ratio(x, before, after) > 1.3


def test_a_tensor_train_is_not_pruned() -> None:
    x = small_nets.tokens()
    train = tensor_train.compress(x.model, tensor_train.Config(epochs=0), x.bench)
    with pytest.raises(Invalid, match="before 'tensor_train'"):
        pruned.compress(train, pruned.Config(epochs=0), x.bench)
