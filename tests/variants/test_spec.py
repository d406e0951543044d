"""A model's promise must fit itself: labels its output, preprocessing its input."""

from dataclasses import replace
from typing import Any

import pytest

from tests import models
from variants.spec import ImagePreprocess, ModelSpec, TensorSpec

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
