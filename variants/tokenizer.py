"""Texts to token numbers, the same in build and gateway; the library `tokenizers` does the work.

    tokenizer = loads(Path("tokenizer.json").read_bytes(), max_tokens=64)
    tokenizer.encode(["a fine film"])["input_ids"]        # int64 [1, 64]

A `tokenizer.json` is plain data: vocabulary, normaliser and rules by name, never code.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from variants.errors import Invalid
from variants.spec import TEXT_INPUTS

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Encoder

MAX_BYTES = 32 << 20
"""Largest `tokenizer.json`; vocabularies of a quarter of a million words fit."""

_PAD_TOKENS = ("[PAD]", "<pad>")


class Tokenizer:
    """One vocabulary with its rules, cutting and padding every text to `max_tokens`."""

    def __init__(self, encoder: "Encoder", max_tokens: int) -> None:
        self._encoder = encoder
        self.max_tokens = max_tokens

    def encode(self, texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """`input_ids`, `attention_mask` and `token_type_ids`, each `[texts, max_tokens] int64`.

        Other threads run meanwhile. Raises `Invalid` for a text that has no tokens in this
        vocabulary.
        """
        try:
            found = self._encoder.encode_batch_fast(list(texts))
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise  # a panic of the library's Rust code is no `Exception`
            raise Invalid(f"the text cannot be tokenised: {error}", field="inputs") from error
        columns = ("ids", "attention_mask", "type_ids")
        return {
            name: np.array([getattr(one, column) for one in found], np.int64).reshape(
                len(found), self.max_tokens
            )
            for name, column in zip(TEXT_INPUTS, columns, strict=True)
        }


def loads(raw: bytes, max_tokens: int) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`, tried on one text.

    How it pads and on which side it cuts is as the file says, to how many tokens is not. Raises
    `Invalid` for a file that is too large, that does not parse or that cannot do it.
    """
    if len(raw) > MAX_BYTES:
        raise Invalid(
            f"the tokenizer has {len(raw)} bytes; at most {MAX_BYTES} are taken", field="tokenizer"
        )
    # Read when the library first works. Its own threads would take the cores of the workers.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer as Encoder

    try:
        encoder = Encoder.from_buffer(raw)
        _fit(encoder, max_tokens)
        tokenizer = Tokenizer(encoder, max_tokens)
        tokenizer.encode(["a"])
    except Exception as error:  # the library raises nothing more exact
        raise Invalid(f"not a usable tokenizer: {error}", field="tokenizer") from error
    return tokenizer


def _fit(encoder: "Encoder", max_tokens: int) -> None:
    padding, truncation = encoder.padding or {}, encoder.truncation or {}
    guesses = (encoder.token_to_id(token) for token in _PAD_TOKENS)
    guess = next((number for number in guesses if number is not None), 0)
    encoder.enable_truncation(max_tokens, direction=truncation.get("direction", "right"))
    encoder.enable_padding(
        length=max_tokens,
        direction=padding.get("direction", "right"),
        pad_id=padding.get("pad_id", guess),
        pad_type_id=padding.get("pad_type_id", 0),
        pad_token=padding.get("pad_token", encoder.id_to_token(guess) or _PAD_TOKENS[0]),
    )
