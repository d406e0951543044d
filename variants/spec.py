"""What a model promises to its clients: task, tensors, labels and how inputs are prepared."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, assert_never

from pydantic import ConfigDict, Field

NAME = r"[a-z0-9][a-z0-9_.+-]{0,62}"
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
"""A model's or variant's name: lower case, digits and `_ . + -`, at most 63 characters."""

Dtype = Literal["float32", "float16", "float64", "int64", "int32", "int8", "uint8", "bool"]
Size = Annotated[int, Field(gt=0, le=2**31)]
MaxTokens = Annotated[int, Field(ge=2, le=8192)]
"""Tokens of one text, those that the tokenizer adds included."""

TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""What a tokenizer gives; a text model takes the first of them, and may take the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """One named tensor. `shape` leaves out the leading batch axis, which is always dynamic."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=256)]
    dtype: Dtype
    shape: tuple[Size, ...]

    @property
    def elements(self) -> int:
        """Elements in one row of the batch."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePreprocess:
    """Decode, convert to `mode`, resize to the input's height and width, divide by 255, NCHW.

    Normalisation constants live inside the graph, so pixels arrive as float32 in [0, 1].
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    kind: Literal["image"] = "image"
    mode: Literal["L", "RGB"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextPreprocess:
    """Tokenise, cut and pad to `max_tokens`: int64 `[max_tokens]` for each of the inputs.

    `tokenizer` is the SHA-256 of a `tokenizer.json` in the store, the plain-data format of the
    library `tokenizers`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    kind: Literal["text"] = "text"
    tokenizer: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    max_tokens: MaxTokens


Preprocess = Annotated[ImagePreprocess | TextPreprocess, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A model as clients know it. Every variant of it has exactly these inputs and outputs."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: Name
    task: Literal["classification", "tensors"]
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=64)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=64)]
    labels: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    metric: Literal["top1"] = "top1"
    max_batch: Annotated[int, Field(ge=1, le=1024)] = 32

    def __post_init__(self) -> None:
        """Raise `ValueError` where labels or preprocessing do not fit the tensors."""
        classes = self.outputs[0].shape
        if self.labels and classes != (len(self.labels),):
            raise ValueError(f"{len(self.labels)} labels for an output of shape {list(classes)}")
        match self.preprocess:
            case None:
                return
            case ImagePreprocess(mode=mode):
                _check_picture(self.inputs, mode)
            case TextPreprocess(max_tokens=max_tokens):
                _check_tokens(self.inputs, max_tokens)
            case never:
                assert_never(never)


def _check_picture(inputs: tuple[TensorSpec, ...], mode: Literal["L", "RGB"]) -> None:
    channels = {"L": 1, "RGB": 3}[mode]
    picture = inputs[0]
    if len(inputs) != 1 or picture.dtype != "float32" or len(picture.shape) != 3:
        raise ValueError("an image model has one float32 input [channels, height, width]")
    if picture.shape[0] != channels:
        raise ValueError(
            f"mode {mode} has {channels} channels, the input {picture.name!r} {picture.shape[0]}"
        )


def _check_tokens(inputs: tuple[TensorSpec, ...], max_tokens: int) -> None:
    names = [tensor.name for tensor in inputs]
    if TEXT_INPUTS[0] not in names or len(set(names)) != len(names):
        raise ValueError(f"a text model has one input {TEXT_INPUTS[0]!r}, found: {names}")
    for tensor in inputs:
        if tensor.name not in TEXT_INPUTS:
            raise ValueError(
                f"a tokenizer gives {', '.join(TEXT_INPUTS)}; the model wants {tensor.name!r}"
            )
        if tensor.dtype != "int64" or tensor.shape != (max_tokens,):
            raise ValueError(
                f"the input {tensor.name!r} is {tensor.dtype}{list(tensor.shape)}; "
                f"{max_tokens} tokens are int64[{max_tokens}]"
            )
