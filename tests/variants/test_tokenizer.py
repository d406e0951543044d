"""Texts to token numbers: what the library gives, cut and padded; and files that are refused."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests import models
from variants import tokenizer as tokenizers
from variants.errors import Invalid
from variants.spec import TEXT_INPUTS

RAW = models.tiny_tokenizer()


def changed(**parts: Any) -> bytes:
    return json.dumps({**json.loads(RAW), **parts}).encode()


def test_a_short_text_is_padded_and_a_long_one_is_cut() -> None:
    found = tokenizers.loads(RAW, 6).encode(["A fine film", "fine films a dull film", ""])
    assert found["input_ids"].tolist() == [
        [2, 7, 4, 6, 3, 0],
        [2, 4, 6, 8, 7, 3],
        [2, 3, 0, 0, 0, 0],
    ]
    assert found["attention_mask"].sum(axis=1).tolist() == [5, 6, 2]
    assert not found["token_type_ids"].any()
    assert tuple(found) == TEXT_INPUTS
    assert {rows.dtype for rows in found.values()} == {np.dtype(np.int64)}


def test_tokens_are_those_of_the_library() -> None:
    text = "A FINE, dull film… unknown"
    expected = Tokenizer.from_str(RAW.decode()).encode(text).ids
    found = tokenizers.loads(RAW, 16).encode([text])
    assert found["input_ids"][0, : len(expected)].tolist() == expected
    assert found["attention_mask"][0].tolist() == [1] * len(expected) + [0] * (16 - len(expected))


def test_no_texts_are_no_rows() -> None:
    assert tokenizers.loads(RAW, 4).encode([])["input_ids"].shape == (0, 4)


def test_the_file_says_on_which_side_and_with_what_it_pads() -> None:
    padding = {
        "strategy": {"Fixed": 99},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 5,
        "pad_type_id": 1,
        "pad_token": "dull",
    }
    found = tokenizers.loads(changed(padding=padding), 4).encode(["a"])
    assert found["input_ids"].tolist() == [[5, 2, 7, 3]]
    assert found["token_type_ids"].tolist() == [[1, 0, 0, 0]]


def test_without_a_word_on_padding_its_pad_token_serves() -> None:
    words = ("[UNK]", "x", "[CLS]", "[SEP]", "[PAD]", "a")
    found = tokenizers.loads(models.tiny_tokenizer(words), 4).encode(["a"])
    assert found["input_ids"].tolist() == [[2, 5, 3, 4]]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not a usable tokenizer"),
        (b"\x80\x04.", "not a usable tokenizer"),
        (b"{}", "not a usable tokenizer"),
        (changed(model={"type": "Exec", "vocab": {}}), "not a usable tokenizer"),
        (models.tiny_tokenizer(("[PAD]",)), "not a usable tokenizer"),
        (RAW + b" " * tokenizers.MAX_BYTES, "at most"),
    ],
)
def test_what_is_no_tokenizer_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(Invalid, match=reason) as refusal:
        tokenizers.loads(raw, 8)
    assert refusal.value.field == "tokenizer"


def test_a_panic_of_the_library_is_a_refusal_too(capfd: pytest.CaptureFixture[str]) -> None:
    broken = json.loads(RAW)["post_processor"]
    broken["special_tokens"] = {}
    with pytest.raises(Invalid, match="not a usable tokenizer"):
        tokenizers.loads(changed(post_processor=broken), 8)
    capfd.readouterr()  # Rust says what happened on the error stream


def test_too_few_tokens_for_its_own_marks_are_refused() -> None:
    with pytest.raises(Invalid, match="not a usable tokenizer"):
        tokenizers.loads(RAW, 1)


def test_a_gateway_without_text_models_does_not_load_the_library() -> None:
    code = "import sys, app.server, app.factory; assert 'tokenizers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
