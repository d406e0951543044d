"""Texts as a model file returns them: token numbers, made as the gateway will make them.

rows = texts.encode(Path("tokenizer.json"), ["a fine film"], max_tokens=64)
rows["input_ids"]                                     # int64 [1, 64]
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from variants import tokenizer as tokenizers
from variants.errors import Invalid


def encode(
    tokenizer: Path,
    texts: Sequence[str],
    max_tokens: int,
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
) -> dict[str, NDArray[np.int64]]:
    """`[texts, max_tokens] int64` for each of the model's `inputs`.

    Raises `Invalid` for a tokenizer that is none.
    """
    found = tokenizers.loads(read(tokenizer), max_tokens).encode(texts)
    return {name: found[name] for name in inputs}


def read(tokenizer: Path) -> bytes:
    """The bytes of a tokenizer file. Raises `Invalid` where it cannot be read or is too large."""
    try:
        if tokenizer.stat().st_size <= tokenizers.MAX_BYTES:
            return tokenizer.read_bytes()
    except OSError as error:
        raise Invalid(f"{tokenizer}: {error}", field="tokenizer") from error
    raise Invalid(f"{tokenizer}: larger than {tokenizers.MAX_BYTES} bytes", field="tokenizer")
