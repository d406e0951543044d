"""Weights as 8- or 4-bit integers with scales, made float32 in the graph; arithmetic in float32.

w ≈ s × q with q = round(w ÷ s) and one s per output channel, or per group of inputs of it. With
4 bits, s is the one of several below max|w| ÷ 7 with the least squared error, because cutting a
few outliers off makes the steps finer for all others. Source: B. Jacob et al., "Quantization and
training of neural networks for efficient integer-arithmetic-only inference" (2018), eq. 1 with a
zero point of 0; R. Banner et al., "Post training 4-bit quantization of convolutional networks"
(2019) for the clipping.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from compressors.anatomy import Anatomy
from compressors.bench import Bench
from compressors.onnx_weights import OPSET_OF_BLOCKS, raise_opset, store_scaled, weights

FAMILY: Literal["precision"] = "precision"
GUIDE = "A quarter (8 bits) or an eighth (4 bits) of the bytes without calibration rows."
HARDWARE = "any"
KNOBS: dict[str, tuple[Any, ...]] = {"bits": (8, 4)}
WORKS_ON: Literal["onnx"] = "onnx"
REQUIRES: tuple[str, ...] = ("onnx",)

_SHRINK = np.linspace(0.3, 1.0, 15)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How weights are stored.

    `bits`: 8 or 4.
    `group`: inputs that share a scale; 0 is one scale for the whole output channel. Layers whose
    inputs it does not divide, convolutions and tables have one scale per channel.
    `min_elements`: smaller tensors stay float32.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    bits: Literal[8, 4] = 8
    group: Annotated[int, Field(ge=0, le=4096)] = 0
    min_elements: Annotated[int, Field(ge=1)] = 256


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Needs a layer with weights."""
    del config
    return "" if anatomy.layers else "it has no linear layer and no convolution"


def convert(source: Path, target: Path, config: Config, bench: Bench) -> None:
    """Write the graph with integer weights."""
    import onnx
    from onnx import TensorProto, helper

    del bench
    kind = {8: TensorProto.INT8, 4: TensorProto.INT4}[config.bits]
    model = onnx.load(source)
    if config.bits == 4 or config.group:
        model = raise_opset(model, OPSET_OF_BLOCKS)
    for weight in list(weights(model, config.min_elements)):
        by_group = bool(
            config.group
            and weight.inputs is not None
            and weight.values.ndim == 2
            and weight.values.shape[weight.inputs] % config.group == 0
        )
        outputs_first = np.moveaxis(weight.values, weight.outputs, 0)
        size = config.group if by_group else int(np.prod(outputs_first.shape[1:]))
        whole, scale = quantise(outputs_first.reshape(-1, size), config.bits)
        integers = np.moveaxis(whole.reshape(outputs_first.shape), 0, weight.outputs)
        if by_group:
            scale = scale.reshape(len(outputs_first), -1)
            scale = scale if weight.outputs == 0 else scale.T
        stored = np.ascontiguousarray(integers).astype(helper.tensor_dtype_to_np_dtype(kind))
        store_scaled(model, weight, stored, np.ascontiguousarray(scale))
    onnx.save(model, target)


def quantise(rows: NDArray[np.float32], bits: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Integers `[n, k]` and scales `[n]` of `rows` `[n, k]`, each row with the best of its scales.

    The integers are from −(2^(bits−1) − 1) to 2^(bits−1) − 1, symmetric about 0.
    """
    top = 2 ** (bits - 1) - 1
    largest = np.maximum(np.abs(rows).max(axis=1), np.finfo(np.float32).tiny * top)
    best = np.full(len(rows), np.inf, np.float32)
    scale = np.ones(len(rows), np.float32)
    for shrink in _SHRINK if bits < 8 else (1.0,):
        step = (largest * shrink / top).astype(np.float32)
        near = np.clip(np.rint(rows / step[:, None]), -top, top) * step[:, None]
        error = ((near - rows) ** 2).sum(axis=1)
        better = error < best
        best[better], scale[better] = error[better], step[better]
    return np.clip(np.rint(rows / scale[:, None]), -top, top).astype(np.int8), scale
