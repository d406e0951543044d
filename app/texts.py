"""Texts to tensors, as a model's spec declares it; `variants.tokenizer` does the work."""

from app.errors import TensorMismatch, TokenizerLost
from variants.runtimes import Tensors
from variants.spec import ModelSpec, TextPreprocess
from variants.tokenizer import Tokenizer

MAX_CHARACTERS = 1 << 18
"""The most that the texts of one request may have in all."""


class TooManyCharacters(TensorMismatch):
    """Texts that are longer than allowed; found before they are tokenised."""


def encode(
    texts: list[str],
    spec: ModelSpec,
    tokenizer: Tokenizer | None,
    *,
    max_characters: int = MAX_CHARACTERS,
) -> Tensors:
    """The model's inputs `[texts, max_tokens] int64`; a text that is longer is cut.

    Raises `TensorMismatch` for a model that takes none, `TooManyCharacters` beyond
    `max_characters`, `TokenizerLost` where the tokenizer could not be loaded, and `Invalid` for a
    text that has no tokens in its vocabulary.
    """
    if not isinstance(spec.preprocess, TextPreprocess):
        raise TensorMismatch(f"model {spec.name!r} takes no texts", field="inputs")
    if (characters := sum(map(len, texts))) > max_characters:
        raise TooManyCharacters(
            f"the texts have {characters} characters; at most {MAX_CHARACTERS} are allowed in one "
            "request",
            field="inputs",
        )
    if tokenizer is None:
        raise TokenizerLost(f"the tokenizer of model {spec.name!r} is missing or damaged")
    found = tokenizer.encode(texts)
    return {tensor.name: found[tensor.name] for tensor in spec.inputs}
