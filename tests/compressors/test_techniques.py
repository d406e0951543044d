"""Every technique is found by its file name and has a measured effect."""

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from compressors import techniques
from compressors.anatomy import Anatomy
from tests.compressors.conftest import Ladder
from variants.errors import Invalid


@pytest.mark.parametrize("name", techniques.names())
def test_a_technique_offers_what_its_kind_promises(name: str) -> None:
    technique = techniques.find(name)
    assert technique.WORKS_ON in ("torch", "onnx")
    assert is_dataclass(technique.Config)
    assert technique.Config.__dataclass_params__.frozen  # type: ignore[attr-defined]  # untyped
    technique.Config()
    told = " ".join(base.__doc__ or "" for base in technique.Config.__mro__[:-1])
    for field in fields(technique.Config):
        assert f"`{field.name}`" in told
    assert technique.FAMILY in get_args(techniques.Family)
    assert technique.GUIDE.endswith(".") and "\n" not in technique.GUIDE
    assert technique.HARDWARE and all(isinstance(needed, str) for needed in technique.REQUIRES)
    assert isinstance(technique.unsuitable(Anatomy(layers=()), technique.Config()), str)
    for knob, choices in technique.KNOBS.items():
        for choice in choices:
            technique.Config(**{knob: choice})
    functions = ("convert",) if technique.WORKS_ON == "onnx" else ("compress", "rebuild")
    for function in functions:
        assert callable(getattr(technique, function))


def test_an_unknown_technique_lists_the_known_ones() -> None:
    with pytest.raises(Invalid, match="int8"):
        techniques.find("os")


def _weights(ladder: Ladder, name: str) -> int:
    """Numbers that the variant's file holds as initialisers."""
    import onnx

    manifest = ladder.outcomes[name].manifest
    assert manifest is not None
    model = onnx.load(ladder.folder.store.blob_path(manifest.artifact.digest))
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer)


def _size(ladder: Ladder, name: str) -> int:
    manifest = ladder.outcomes[name].manifest
    assert manifest is not None, ladder.outcomes[name].reason
    return manifest.artifact.size_bytes


@pytest.mark.parametrize(
    ("name", "parent", "low", "high"),
    [
        ("fp16", "fp32", 0.45, 0.55),
        ("int8", "fp32", 0.2, 0.32),
        ("pruned", "fp32", 0.1, 0.6),
        ("low_rank", "fp32", 0.02, 0.5),
        ("distilled", "fp32", 0.01, 0.2),
        ("distilled+int8", "distilled", 0.2, 0.6),
    ],
)
def test_a_technique_makes_the_file_smaller(
    ladder: Ladder, name: str, parent: str, low: float, high: float
) -> None:
    assert low <= _size(ladder, name) / _size(ladder, parent) <= high


@pytest.mark.parametrize("name", ["pruned", "low_rank", "distilled"])
def test_a_torch_technique_leaves_fewer_weights(ladder: Ladder, name: str) -> None:
    assert _weights(ladder, name) < 0.6 * _weights(ladder, "fp32")


def test_every_variant_still_classifies(ladder: Ladder) -> None:
    for name, outcome in ladder.outcomes.items():
        assert outcome.manifest is not None and outcome.manifest.accuracy is not None
        assert outcome.manifest.accuracy.value > 0.8, name
        assert outcome.manifest.accuracy.n == 400


def test_energy_chooses_the_smallest_sufficient_rank() -> None:
    torch = pytest.importorskip("torch")
    from compressors.ranks import rank_for

    values = torch.tensor([3.0, 2.0, 1.0, 0.0])  # squares 9, 4, 1, 0 of 14
    assert [rank_for(values, energy) for energy in (0.5, 0.9, 0.95, 1.0)] == [1, 2, 3, 3]


def test_full_rank_factors_give_the_same_answers() -> None:
    torch = pytest.importorskip("torch")
    from compressors import ranks
    from compressors.techniques import low_rank

    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 48)
    with torch.no_grad():  # rank 5, so that the product of two thin layers is exact
        layer.weight.copy_(torch.randn(48, 5) @ torch.randn(5, 64))
    factors = low_rank.method(low_rank.Config()).made(
        layer, (ranks.by_energy(layer.weight, 1 - 1e-6),)
    )
    assert factors[0].out_features == 5
    rows = torch.randn(8, 64)
    assert torch.allclose(layer(rows), factors(rows), atol=1e-3)


def test_float16_refuses_weights_beyond_its_range(
    tmp_path: Path, scaled_onnx: Callable[[float], Path]
) -> None:
    pytest.importorskip("onnx")
    from compressors.techniques import fp16

    with pytest.raises(Invalid, match="65504"):
        fp16.convert(scaled_onnx(1e6), tmp_path / "out.onnx", fp16.Config(min_elements=1), None)  # type: ignore[arg-type]  # unused


@pytest.fixture
def scaled_onnx(tmp_path: Path) -> Callable[[float], Path]:
    """A file that holds one weight of the given size."""

    def make(value: float) -> Path:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        weight = numpy_helper.from_array(np.full((4, 3), value, np.float32), "w")
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
            [weight],
        )
        path = tmp_path / "big.onnx"
        onnx.save(helper.make_model(graph), path)
        return path

    return make
