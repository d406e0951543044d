"""A plan for a text model: checked with its tokenizer, built, and served with the same tokens."""

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressors import plan as plans
from compressors import source, texts
from compressors.build import build
from compressors.build_key import source_digest
from tests import models
from tests.compressors import plans as written
from variants import evaluation
from variants import tokenizer as tokenizers
from variants.data_folder import DataFolder
from variants.errors import Invalid
from variants.spec import TextPreprocess

EXAMPLE = Path(__file__).parents[2] / "examples" / "movie_sentiment"
KIND = 'kind = "text"'


def test_a_text_model_is_published_with_its_tokenizer(
    tmp_path: Path, data_folder: DataFolder
) -> None:
    plan = plans.load(written.texts(tmp_path))
    (outcome,) = build(plan, data_folder)
    assert outcome.status == "published", outcome.reason
    assert outcome.manifest is not None and outcome.manifest.accuracy is not None
    assert outcome.manifest.accuracy.value == 1.0
    record = data_folder.registry.model("words")
    digest = hashlib.sha256(models.tiny_tokenizer()).hexdigest()
    assert record.spec.preprocess == TextPreprocess(tokenizer=digest, max_tokens=8)
    raw = data_folder.store.read_bytes(digest, max_bytes=tokenizers.MAX_BYTES)
    assert record.evaluation_digest is not None
    held_out = evaluation.load(data_folder.store.blob_path(record.evaluation_digest))
    served = tokenizers.loads(raw, 8).encode(["a film"])["input_ids"][0]
    assert any((row == served).all() for row in held_out.inputs["input_ids"])


def test_another_tokenizer_asks_for_a_new_build(tmp_path: Path) -> None:
    path = written.texts(tmp_path)
    before = source_digest(plans.load(path))
    assert source_digest(plans.load(path)) == before
    (tmp_path / "words.json").write_bytes(models.tiny_tokenizer((*models.WORDS, "new")))
    assert source_digest(plans.load(path)) != before


def test_a_plan_for_pictures_keeps_its_identity(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    head = written.HEAD.replace("labels =", 'preprocess = { mode = "L" }\nlabels =')
    plan = plans.load(written.write(tmp_path, '[[recipe]]\nname = "fp32"\n', head))
    table = plan.model.model_dump(mode="json")
    assert table["preprocess"] == {"kind": "image", "mode": "L"}
    assert plan.data_files == ()


@pytest.mark.parametrize(
    ("preprocess", "hints"),
    [
        (f"{{ {KIND}, max_tokens = 8 }}", ["names its 'tokenizer'"]),
        (f'{{ {KIND}, tokenizer = "word.json", max_tokens = 8 }}', ["no file", "'words.json'"]),
        (f'{{ {KIND}, tokenizer = "rows.npz", max_tokens = 8 }}', ["not a usable tokenizer"]),
        (f'{{ {KIND}, tokenizer = "words.json", max_tokens = 1 }}', ["greater than or equal to 2"]),
        (f'{{ {KIND}, tokenizer = "words.json" }}', ["max_tokens", "required"]),
        (
            f'{{ {KIND}, tokenizer = "words.json", max_tokens = 8, toknizer = 1 }}',
            ["unknown key", "'tokenizer'"],
        ),
        ('{ kind = "sound" }', ["sound", "image", "text"]),
        ('"text"', ["dictionary", "'text'"]),
        ('{ mode = "CMYK" }', ["mode", "CMYK"]),
    ],
)
def test_each_wrong_preprocessing_is_one_line_that_names_its_place(
    tmp_path: Path, preprocess: str, hints: list[str]
) -> None:
    path = written.texts(tmp_path, preprocess)
    with pytest.raises(Invalid) as caught:
        plans.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:5: ") and "\n" not in message
    for hint in hints:
        assert hint in message


def test_tokens_of_another_length_than_the_model_takes_are_refused(tmp_path: Path) -> None:
    path = written.texts(tmp_path, f'{{ {KIND}, tokenizer = "words.json", max_tokens = 9 }}')
    with pytest.raises(Invalid, match=r"9 tokens are int64\[9\]"):
        source.load(plans.load(path))


def test_a_python_model_offers_the_tokenizer_or_the_plan_names_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    head = written.HEAD.replace("labels =", f"preprocess = {{ {KIND}, max_tokens = 8 }}\nlabels =")
    path = written.write(tmp_path, '[[recipe]]\nname = "fp32"\n', head)
    with pytest.raises(Invalid, match=r"offer tokenizer\(\) in model\.py"):
        plans.load(path)
    with (tmp_path / "model.py").open("a", encoding="utf-8") as file:
        file.write("\n\ndef tokenizer():\n    return 'words.json'\n")
    assert plans.load(path).data_files == ()


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(tokenizers.MAX_BYTES + 1)
    with pytest.raises(Invalid, match="larger than"):
        texts.read(path)


@pytest.fixture(scope="module")
def example() -> Any:
    """The example's network, small, with random weights."""
    torch = pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("movie_sentiment", EXAMPLE / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    return module.Sentiment(words=50, tokens=12, width=32, head_size=8, neurons=64, layers=3).eval()


def test_the_examples_answer_does_not_depend_on_padding(example: Any) -> None:
    import torch

    ids = torch.randint(1, 50, (4, 12))
    mask = (torch.arange(12) < torch.tensor([[12], [7], [3], [1]])).long()
    with torch.inference_mode():
        whole = example(ids, mask)
        other = example(torch.where(mask == 1, ids, 9), mask)
        short = example(ids[1:2, :7], mask[1:2, :7])
        nothing = example(ids, torch.zeros_like(mask))
    torch.testing.assert_close(other, whole)
    torch.testing.assert_close(short, whole[1:2])
    assert torch.isfinite(nothing).all(), "a worker warms up with zeros"


def test_the_examples_heads_follow_from_the_width_of_its_queries(example: Any) -> None:
    import copy

    import torch
    from torch import nn

    ids = torch.randint(1, 50, (2, 12))
    smaller = copy.deepcopy(example)
    del smaller.layers[1]
    attention = smaller.layers[0].attention
    for name in ("query", "key", "value"):
        kept = nn.Linear(32, 16)
        setattr(attention, name, kept)
    attention.output = nn.Linear(16, 32)
    with torch.inference_mode():
        assert smaller(ids, torch.ones_like(ids)).shape == (2, 2)


def test_the_examples_plan_and_model_agree() -> None:
    pytest.importorskip("torch")
    plan = plans.load(EXAMPLE / "plan.toml")
    table = plan.model.preprocess
    assert isinstance(table, plans.TextTable)
    text = (EXAMPLE / "model.py").read_text(encoding="utf-8")
    assert f"MAX_TOKENS = {table.max_tokens}\n" in text
    assert {tensor.shape for tensor in plan.model.inputs} == {(table.max_tokens,)}
    assert json.dumps(list(plan.model.labels)) == '["negative", "positive"]'
    assert not np.isnan(plan.train.learning_rate)
