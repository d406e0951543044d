"""The examples of `docs/extend.md` are files that work where the page says they go."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from router import dispatch as dispatching
from router import policies
from router.candidate import Candidate
from router.fleet import Queued
from router.outlook import Outlook
from router.waiting import Waiting
from tests import models
from variants import runtimes
from variants.profile import Quantiles

PAGE = Path(__file__).parents[2] / "docs" / "extend.md"
EXAMPLES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[None]:
    """Every example in its package, as if its file lay in the folder."""
    touched = []
    for path, code in EXAMPLES.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code, "utf-8")
        package = importlib.import_module(str(Path(path).parent).replace("/", "."))
        package.__path__.append(str(file.parent))
        touched.append((package, str(file.parent)))
    yield
    for package, folder in touched:
        package.__path__.remove(folder)
    for path in EXAMPLES:
        sys.modules.pop(path.removesuffix(".py").replace("/", "."), None)


def test_the_page_shows_one_example_of_each_kind() -> None:
    assert sorted(EXAMPLES) == [
        "compressors/techniques/coarse.py",
        "router/policies/thrifty.py",
        "variants/runtimes/reference.py",
    ]


def test_the_example_technique_is_found_and_rounds_weights(installed: None, tmp_path: Path) -> None:
    techniques = importlib.import_module("compressors.techniques")
    technique = techniques.find("coarse")
    source, target = models.tiny_onnx(tmp_path / "in.onnx"), tmp_path / "out.onnx"
    technique.convert(source, target, technique.Config(bits=4), None)
    weight = onnx.numpy_helper.to_array(onnx.load(target).graph.initializer[0])
    fraction, _ = np.frexp(weight)
    assert np.array_equal(fraction * 16, np.round(fraction * 16))
    assert not np.array_equal(weight, models.weights()[0])


def test_the_example_runtime_is_found_and_answers_as_the_model_does(
    installed: None, tmp_path: Path
) -> None:
    session = runtimes.find("reference").load(models.tiny_onnx(tmp_path / "tiny.onnx"), 1)
    rows = models.tiny_rows(5)
    assert np.allclose(session.run({"x": rows})["logits"], models.tiny_logits(rows), atol=1e-5)


def test_the_example_policy_is_found_and_takes_the_cheapest(installed: None) -> None:
    service = {1: Quantiles(p50=0.001, p95=0.001, p99=0.001)}
    candidates = {
        name: Candidate(variant=name, accuracy=None, cost_usd_per_million=cost, service=service)
        for name, cost in (("dear", 2.0), ("cheap", 1.0))
    }
    request = Queued(
        id=1,
        arrival_s=0.0,
        deadline_s=1.0,
        drop_late=True,
        urgency=3,
        rows=1,
        eligible=("cheap", "dear"),
        objective="accuracy",
        percentile=95,
    )
    outcome = dispatching.dispatch(
        policies.find("thrifty"),
        queue=Waiting([request]),
        outlook=Outlook(candidates, frozenset(candidates)),
        others=[],
        now_s=0.0,
        overhead_s=0.0,
        max_batch=8,
    )
    assert outcome.choice is not None
    assert (outcome.choice.variant, outcome.choice.requests) == ("cheap", (1,))
