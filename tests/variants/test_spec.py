"""A model's promise must fit itself: labels its output, preprocessing its input."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from tests import models
from variants.spec import ImagePreprocess, ModelSpec, TensorSpec, TextPreprocess

TINY = models.tiny_spec()


def picture(*shape: int, dtype: Any = "float32") -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="image", dtype=dtype, shape=shape),)


def test_labels_must_be_as_many_as_the_first_output_has_classes() -> None:
    with pytest.raises(ValueError, match=r"2 labels for an output of shape \[3\]"):
        replace(TINY, labels=("a", "b"))


@pytest.mark.parametrize(
    ("mode", "inputs"),
    [
        ("L", picture(3, 8, 8)),
        ("RGB", picture(1, 8, 8)),
        ("L", picture(8, 8)),
        ("L", picture(1, 8, 8, dtype="uint8")),
        ("L", picture(1, 8, 8) * 2),
    ],
)
def test_an_image_model_needs_one_float_input_with_the_modes_channels(
    mode: Any, inputs: tuple[TensorSpec, ...]
) -> None:
    with pytest.raises(ValueError, match="channels"):
        replace(TINY, inputs=inputs, preprocess=ImagePreprocess(mode=mode))


def test_a_fitting_image_model_is_taken() -> None:
    spec: ModelSpec = replace(TINY, inputs=picture(3, 8, 8), preprocess=ImagePreprocess(mode="RGB"))
    assert spec.preprocess is not None


def tokens(*names: str, size: int = 8, dtype: Any = "int64") -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, dtype=dtype, shape=(size,)) for name in names)


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (tokens("attention_mask"), "one input 'input_ids'"),
        (tokens("input_ids", "input_ids"), "one input 'input_ids'"),
        (tokens("input_ids", "position_ids"), "wants 'position_ids'"),
        (tokens("input_ids", size=9), "int64\\[9\\]; 8 tokens"),
        (tokens("input_ids", dtype="int32"), "int32\\[8\\]; 8 tokens"),
    ],
)
def test_a_text_model_takes_what_a_tokenizer_gives(
    inputs: tuple[TensorSpec, ...], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(TINY, inputs=inputs, preprocess=TextPreprocess(tokenizer="a" * 64, max_tokens=8))


def test_every_kind_of_spec_survives_the_registry() -> None:
    adapter: TypeAdapter[ModelSpec] = TypeAdapter(ModelSpec)
    for spec in (TINY, models.picture_spec(), models.text_spec("a" * 64)):
        assert adapter.validate_json(adapter.dump_json(spec)) == spec


def test_a_stored_spec_names_the_kind_of_its_preprocessing() -> None:
    stored = TypeAdapter(ModelSpec).dump_python(models.text_spec("a" * 64), mode="json")
    assert stored["preprocess"] == {"kind": "text", "tokenizer": "a" * 64, "max_tokens": 8}
    stored["preprocess"]["tokenizer"] = "../tokenizer.json"
    with pytest.raises(ValidationError, match="tokenizer"):
        TypeAdapter(ModelSpec).validate_python(stored)
