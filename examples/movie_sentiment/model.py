"""Movie-review sentiment: a six-layer transformer that knows English already, tuned on sentences.

The encoder has BERT's form in plain PyTorch. `layers` is a list whose members can be dropped; each
has `attention.query`, `.key`, `.value` and `.output`, `up` and `down`. How many heads there are
follows from the width of the queries, so heads and neurons can be taken out.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from compressors import datasets, texts

MAX_TOKENS = 56
"""99.4 % of the sentences are no longer."""
TEST, SELECTION = 2_000, 1_000
MASKED = -10_000.0
"""Added to the scores of padding: nothing is left of them after the softmax."""

Inputs = dict[str, NDArray[np.int64]]


class Attention(nn.Module):
    """Every token looks at all others, in heads of `head_size`."""

    def __init__(self, width: int, head_size: int) -> None:
        super().__init__()
        self.head_size = head_size
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x [batch, tokens, width]`, `mask [batch, 1, 1, tokens]` to be added to the scores."""
        query, key, value = (self._heads(part(x)) for part in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) * self.head_size**-0.5
        mixed = torch.softmax(scores + mask, dim=-1) @ value
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """`[batch, tokens, heads × size]` to `[batch, heads, tokens, size]`."""
        return x.unflatten(-1, (-1, self.head_size)).transpose(1, 2)


class Layer(nn.Module):
    """Attention and a network of two layers, each beside the identity and then normalised."""

    def __init__(self, width: int, head_size: int, neurons: int) -> None:
        super().__init__()
        self.attention = Attention(width, head_size)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.up = nn.Linear(width, neurons)
        self.act = nn.GELU()
        self.down = nn.Linear(neurons, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, mask)))
        return self.norm(x + self.dropout(self.down(self.act(self.up(x)))))


class Sentiment(nn.Module):
    """Token numbers to two logits: encoder, mean over the tokens, linear head."""

    def __init__(
        self,
        *,
        words: int = 30_522,
        tokens: int = MAX_TOKENS,
        width: int = 384,
        head_size: int = 32,
        neurons: int = 1_536,
        layers: int = 6,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.positions = nn.Embedding(tokens, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(0.1)
        self.layers = nn.ModuleList(Layer(width, head_size, neurons) for _ in range(layers))
        self.head = nn.Linear(width, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`[batch, tokens] int64` twice, the mask 1 for tokens and 0 for padding."""
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.dropout(self.norm(self.words(input_ids) + self.positions(place)))
        present = attention_mask.to(x.dtype)
        mask = (1 - present)[:, None, None] * MASKED
        for layer in self.layers:
            x = layer(x, mask)
        weight = present[:, :, None]
        mean = (x * weight).sum(1) / weight.sum(1).clamp(min=1)
        return self.head(self.dropout(mean))


_PARTS = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "norm",
}
"""A layer's parts as MiniLM's file calls them, and as they are called here."""


def _pretrained(kept: tuple[int, ...]) -> Sentiment:
    """MiniLM's embeddings and the layers in `kept`, with a new head."""
    stored = load_file(datasets.minilm().weights)
    # Every token here belongs to the first sentence, so that constant joins the positions.
    positions = stored["embeddings.position_embeddings.weight"][:MAX_TOKENS]
    weights = {
        "words.weight": stored["embeddings.word_embeddings.weight"],
        "positions.weight": positions + stored["embeddings.token_type_embeddings.weight"][0],
        "norm.weight": stored["embeddings.LayerNorm.weight"],
        "norm.bias": stored["embeddings.LayerNorm.bias"],
    }
    for place, number in enumerate(kept):
        for theirs, ours in _PARTS.items():
            for kind in ("weight", "bias"):
                name = f"encoder.layer.{number}.{theirs}.{kind}"
                weights[f"layers.{place}.{ours}.{kind}"] = stored[name]
    model = Sentiment(layers=len(kept))
    lacking = model.load_state_dict(weights, strict=False)
    assert lacking.missing_keys == ["head.weight", "head.bias"], lacking
    assert not lacking.unexpected_keys, lacking
    return model


def build_model() -> nn.Module:
    """All six layers, 22.4 million weights."""
    return _pretrained((0, 1, 2, 3, 4, 5))


def build_student() -> nn.Module:
    """Every second layer."""
    return _pretrained((0, 2, 4))


def tokenizer() -> Path:
    return datasets.minilm().tokenizer


@cache
def _sentences() -> datasets.Sentences:
    return datasets.movie_snippets()


def _inputs(sentences: datasets.Sentences) -> Inputs:
    return texts.encode(tokenizer(), sentences.texts, MAX_TOKENS)


def eval_data() -> tuple[Inputs, NDArray[np.int64]]:
    rows = _sentences().rows(0, TEST)
    return _inputs(rows), rows.labels


def selection_data() -> tuple[Inputs, NDArray[np.int64]]:
    rows = _sentences().rows(TEST, TEST + SELECTION)
    return _inputs(rows), rows.labels


def train_data() -> tuple[Inputs, NDArray[np.int64]]:
    rows = _sentences().rows(TEST + SELECTION)
    return _inputs(rows), rows.labels


def calibration_data() -> Inputs:
    return _inputs(_sentences().rows(-512))
