"""Every technique that trains does so on a GPU, where there is one."""

from dataclasses import fields, replace
from typing import Any

import pytest

from compressors import anatomy, techniques
from compressors.gauge import example

torch = pytest.importorskip("torch")

TRAINED = [name for name in techniques.names() if techniques.find(name).WORKS_ON == "torch"]
LITTLE: dict[str, Any] = {
    "epochs": 0.5,
    "student": "resnet",
    "width": 0.25,
    "depths": (1,),
    "widths": (0.25,),
    "blocks": ("resnet",),
    "max_latency_ratio": 100.0,
}
"""So that each is done soon, where it has such a field."""


@pytest.mark.parametrize("name", TRAINED)
def test_a_technique_trains_on_a_gpu(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    compress_on("cuda", name)


def compress_on(device: str, name: str) -> None:
    """Compress a network that the technique suits there; what is made must answer, on the CPU."""
    from tests.compressors import small_nets

    technique: Any = techniques.find(name)
    own = {field.name for field in fields(technique.Config)}
    config = technique.Config(**{key: value for key, value in LITTLE.items() if key in own})
    nets = (small_nets.image(), small_nets.tokens())
    seen = ((n, anatomy.of_module(n.model, example(n.bench))) for n in nets)
    suited = [n for n, found in seen if not technique.unsuitable(found, config)]
    assert suited, "one of the two networks should suit every technique"
    net = suited[0]
    bench = replace(net.bench, train=net.bench.train.model_copy(update={"device": device}))
    made = technique.compress(net.model, config, bench)
    assert all(weight.device.type == "cpu" for weight in made.parameters())
    assert torch.isfinite(net.answers(made)).all()
