"""Max pools move behind what never falls, and the answers stay."""

from pathlib import Path

import numpy as np
import pytest

from variants.spec import ModelSpec, TensorSpec

torch = pytest.importorskip("torch")

SPEC = ModelSpec(
    name="pooled",
    task="classification",
    inputs=(TensorSpec(name="image", dtype="float32", shape=(1, 8, 8)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(3,)),),
)


@pytest.mark.parametrize(
    ("scale", "order"),
    [
        (0.7, ["Conv", "BatchNormalization", "Relu", "MaxPool"]),
        (-0.7, ["Conv", "MaxPool", "BatchNormalization", "Relu"]),
    ],
)
def test_only_what_never_falls_moves_before_a_max_pool(
    tmp_path: Path, scale: float, order: list[str]
) -> None:
    import onnx

    from compressors import export
    from variants.runtimes import onnxruntime

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.MaxPool2d(2),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 3),
    ).eval()
    torch.nn.init.constant_(model[2].weight, scale)
    path = tmp_path / "model.onnx"
    export.export(model, SPEC, path)
    found = [node.op_type for node in onnx.load(path).graph.node]
    assert [op for op in found if op in order] == order

    rows = np.random.default_rng(0).normal(size=(5, 1, 8, 8)).astype(np.float32)
    answers = onnxruntime.load(path, 1).run({"image": rows})["logits"]
    with torch.inference_mode():
        expected = model(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(answers, expected, atol=1e-5)
