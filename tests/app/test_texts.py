"""Texts in a request: the very tokens that the build made, or a refusal that names the place."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import body, texts
from app.errors import TensorMismatch, TokenizerLost, problem_for
from compressors import texts as build
from tests import models
from variants import tokenizer as tokenizers
from variants.errors import Invalid

RAW = models.tiny_tokenizer()
SPEC = models.text_spec(hashlib.sha256(RAW).hexdigest())
TOKENIZER = tokenizers.loads(RAW, models.TOKENS)


def read(inputs: Any, **options: Any) -> dict[str, Any]:
    raw = json.dumps({"inputs": inputs}).encode()
    return dict(body.tensors(SPEC, body.parse_json(raw), tokenizer=TOKENIZER, **options))


@given(
    st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=1, max_size=4)
)
def test_served_tokens_equal_those_that_the_build_made(
    tmp_path_factory: pytest.TempPathFactory, words: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "tokenizer.json"
    if not path.exists():
        path.write_bytes(RAW)
    trained = build.encode(path, words, models.TOKENS)
    served = read(words)
    assert served.keys() == trained.keys() == {"input_ids", "attention_mask"}
    for name, rows in trained.items():
        np.testing.assert_array_equal(served[name], rows)
        assert served[name].dtype == rows.dtype and served[name].flags.c_contiguous


def test_a_single_text_is_one_row() -> None:
    assert read("a fine film")["input_ids"].tolist() == [[2, 7, 4, 6, 3, 0, 0, 0]]


def test_ready_made_tokens_are_taken_as_they_are() -> None:
    tokens = {"input_ids": [2, 4, 3, 0, 0, 0, 0, 0], "attention_mask": [1, 1, 1, 0, 0, 0, 0, 0]}
    assert {name: rows.tolist() for name, rows in read(tokens).items()} == {
        name: [row] for name, row in tokens.items()
    }


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (["a", 1], r"inputs\[1\] is a JSON number; a text is expected"),
        ([None, "a"], r"inputs\[0\] is a JSON null"),
        ([["a"]], "or send texts"),
        ([], "or send texts"),
        ([1, 2], "or send texts"),
        (["a"] * 33, "33 rows; model 'words' takes at most 32"),
        ({"input_ids": ["a"], "attention_mask": [1] * 8}, "JSON string; int64 is expected"),
        ({"text": ["a"]}, r"unknown: \['text'\]"),
        ("x" * (texts.MAX_CHARACTERS + 1), "262145 characters; at most 262144"),
        (["x" * texts.MAX_CHARACTERS, "x"], "262145 characters; at most 262144"),
    ],
)
def test_what_does_not_fit_is_refused(inputs: Any, reason: str) -> None:
    with pytest.raises(TensorMismatch, match=reason):
        read(inputs)


def test_the_limit_holds_before_anything_is_tokenised() -> None:
    with pytest.raises(texts.TooManyCharacters):
        read(["four"], limits=body.Limits(pixels=1, characters=3))


def test_texts_for_other_models_are_refused() -> None:
    for spec in (models.tiny_spec(), models.picture_spec()):
        with pytest.raises(TensorMismatch, match="takes no texts"):
            texts.encode(["a"], spec, TOKENIZER)


def test_a_lost_tokenizer_is_a_503_and_tensors_still_pass() -> None:
    request = body.parse_json(b'{"inputs": "a"}')
    with pytest.raises(TokenizerLost) as refusal:
        body.tensors(SPEC, request)
    problem = problem_for(refusal.value)
    assert (problem.status, problem.code) == (503, "tokenizer-lost")
    assert problem.headers["Retry-After"]
    tokens = {tensor.name: [[1] * models.TOKENS] for tensor in SPEC.inputs}
    ready = body.parse_json(json.dumps({"inputs": tokens}).encode())
    assert body.tensors(SPEC, ready)["input_ids"].shape == (1, models.TOKENS)


def test_the_model_takes_only_the_inputs_that_it_names() -> None:
    only = replace(SPEC, inputs=SPEC.inputs[:1])
    assert texts.encode(["a"], only, TOKENIZER).keys() == {"input_ids"}


def test_a_tokenizer_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"no\.json"):
        build.encode(tmp_path / "no.json", ["a"], 8)
