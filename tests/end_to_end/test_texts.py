"""A text model behind a real socket: texts in, labels out, on the tokens that it was built with."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import texts
from tests import models, world
from tests.world import Gateway
from variants import tokenizer as tokenizers
from variants.data_folder import open_data_folder

RAW = models.tiny_tokenizer()


def publish(root: Path, folder: Path) -> tuple[str, str]:
    """A data folder with one text model; a key, and the tokenizer's digest."""
    with open_data_folder(root) as data:
        digest = data.store.put_bytes(RAW)
        onnx = models.text_onnx(folder / "words.onnx")
        world.publish(data, models.text_spec(digest), None, {"fp32": onnx})
        return world.make_key(data), digest


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with one text model, not to be changed."""
    folder = tmp_path_factory.mktemp("words")
    key, _ = publish(folder / "data", folder)
    with world.gateway(folder / "data", key) as running:
        yield running


def infer(gateway: Gateway, inputs: Any) -> httpx.Response:
    with gateway.client() as client:
        return client.post("/infer", json={"model": "words", "inputs": inputs})


def test_texts_are_answered_as_their_tokens_are(words: Gateway) -> None:
    sentences = ["A fine film.", "dull films", "never seen words", ""]
    found = tokenizers.loads(RAW, models.TOKENS).encode(sentences)
    tokens = {name: found[name].tolist() for name in ("input_ids", "attention_mask")}
    by_text, by_token = infer(words, sentences), infer(words, tokens)
    assert by_text.status_code == by_token.status_code == 200
    assert by_text.json() == by_token.json()
    assert by_text.headers["infer-variant"] == '"fp32"'
    labels = {prediction["label"] for prediction in by_text.json()["predictions"]}
    assert len(labels) > 1, "the sentences differ"
    alone, together = infer(words, sentences[0]).json(), by_text.json()
    assert alone["predictions"][0]["label"] == together["predictions"][0]["label"]


def test_a_long_text_is_cut_without_holding_up_the_others(words: Gateway) -> None:
    long = "fine " * (texts.MAX_CHARACTERS // 5)
    assert infer(words, long).json() == infer(words, "fine " * models.TOKENS).json()


@pytest.mark.parametrize(
    ("inputs", "status", "reason"),
    [
        ("x" * (texts.MAX_CHARACTERS + 1), 422, "at most 262144 are allowed"),
        (["a"] * 33, 422, "at most 32"),
        (["a", ["a"]], 422, "inputs[1] is a JSON list; a text is expected"),
        ([[1] * models.TOKENS], 422, "or send texts"),
        ("a\0b", 400, "NUL"),
    ],
)
def test_each_refusal_is_a_problem_that_says_why(
    words: Gateway, inputs: Any, status: int, reason: str
) -> None:
    answer = infer(words, inputs)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert reason in answer.json()["detail"]


def test_a_text_model_takes_no_picture(words: Gateway) -> None:
    with words.client() as client:
        answer = client.post(
            "/infer",
            content=b"\x89PNG",
            headers={"content-type": "image/png", "infer-model": '"words"'},
        )
    assert answer.status_code == 422
    assert "takes texts, not pictures" in answer.json()["detail"]


def test_its_spec_names_the_tokenizer(words: Gateway) -> None:
    with words.client() as client:
        spec = client.get("/v1/models/words").json()["spec"]
    assert spec["preprocess"]["kind"] == "text"
    assert spec["preprocess"]["max_tokens"] == models.TOKENS


def test_a_damaged_tokenizer_costs_texts_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "data"
    key, digest = publish(root, tmp_path)
    with open_data_folder(root) as data:
        data.store.blob_path(digest).write_bytes(RAW.replace(b"fine", b"dire"))
    with world.gateway(root, key) as gateway:
        answer = infer(gateway, "a fine film")
        assert (answer.status_code, answer.json()["code"]) == (503, "tokenizer-lost")
        assert "tokenizer_lost" in "".join(gateway.log)
        tokens = {name: [[1] * models.TOKENS] for name in ("input_ids", "attention_mask")}
        assert infer(gateway, tokens).status_code == 200


def test_a_new_variant_is_served_with_the_tokenizer_that_is_there(tmp_path: Path) -> None:
    root = tmp_path / "data"
    key, _ = publish(root, tmp_path)
    with world.gateway(root, key) as gateway, gateway.client() as client:
        digest = world.upload(client, models.text_onnx(tmp_path / "other.onnx", seed=1))
        answer = client.post(
            "/v1/models/words/variants",
            json={"name": "other", "artifact": {"digest": digest}},
            headers={"prefer": "wait=60"},
        )
        assert answer.json()["state"] == "active", answer.text
        pinned = client.post(
            "/infer",
            json={"model": "words", "inputs": ["a fine film"]},
            headers={"infer-variants": '"other"'},
        )
        assert (pinned.status_code, pinned.headers["infer-variant"]) == (200, '"other"')
