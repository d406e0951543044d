"""Weights with many equal values stored as one bit each and the values that differ.

The graph unpacks them with standard operators, which runtimes do once, as they load the file: the
value of element i is `values[mask[i] × Σ_{j≤i} mask[j]]`, where `values[0]` is the most common one.
What is left of float32 at a share z of zeros is 1/32 + (1 − z) of the bytes. Works on int8 weights
as well. Source for the form: bitmap encoding, as in S. Han et al., "EIE" (2016), section 2.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from compressors import onnx_weights
from compressors.anatomy import Anatomy
from compressors.bench import Bench
from variants.errors import Invalid

if TYPE_CHECKING:
    import onnx

FAMILY: Literal["pruning"] = "pruning"
GUIDE = "After 'sparse', and after 'int8' where both are used: smaller at rest, never faster."
HARDWARE = "any"
WORKS_ON: Literal["onnx"] = "onnx"
REQUIRES: tuple[str, ...] = ("onnx",)
KNOBS: dict[str, tuple[Any, ...]] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Which tensors are packed.

    `min_elements`: smaller tensors stay as they are.
    `max_size_ratio`: only where this share of a tensor's bytes is left, at most.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    min_elements: Annotated[int, Field(ge=8)] = 1024
    max_size_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.9


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Needs layers with weights; how many zeros are in them, only the file tells."""
    del config
    return "" if anatomy.layers else "it has no layer with weights"


def convert(source: Path, target: Path, config: Config, bench: Bench) -> None:
    """Write the file with its sparse weights packed.

    Raises `Invalid` where none becomes small enough.
    """
    import onnx
    from onnx import numpy_helper

    del bench
    model = onnx.load(source)
    packed = 0
    for tensor in list(model.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.size < config.min_elements or values.dtype.itemsize > 4:
            continue
        common = _most_common(values)
        differing = int((values != common).sum())
        size_bytes = values.size / 8 + (differing + 1) * values.dtype.itemsize
        if size_bytes <= config.max_size_ratio * values.nbytes:
            _pack(model, tensor.name, packed, values, common)
            packed += 1
    if not packed:
        raise Invalid(
            f"no weight would keep {config.max_size_ratio:.0%} of its bytes or less; make zeros "
            "first, with the technique 'sparse'"
        )
    onnx.save(model, target)


def _most_common(values: NDArray[Any]) -> Any:
    """Zero for float weights; for integers the value that is there most often."""
    if not np.issubdtype(values.dtype, np.integer):
        return values.dtype.type(0)
    found, counts = np.unique(values, return_counts=True)
    return found[counts.argmax()]


def _pack(
    model: "onnx.ModelProto", name: str, number: int, values: NDArray[Any], common: Any
) -> None:
    """Put bits, values and the nodes that unpack them in the place of the initialiser `name`."""
    from onnx import TensorProto, helper, numpy_helper

    differs = (values != common).ravel()
    of_tensor: dict[str, NDArray[Any]] = {
        "bits": np.packbits(differs, bitorder="little")[:, None],
        "values": np.concatenate([np.array([common], values.dtype), values.ravel()[differs]]),
        "end": np.array([values.size], np.int64),
        "shape": np.array(values.shape, np.int64),
    }
    of_all: dict[str, NDArray[Any]] = {
        "powers": 2 ** np.arange(8, dtype=np.int32)[None],
        "two": np.array(2, np.int32),
        "flat": np.array([-1], np.int64),
        "first": np.array([0], np.int64),
        "axis": np.array(0, np.int64),
    }
    prefix = f"packed.{number}"
    there = {tensor.name for tensor in model.graph.initializer}
    tensors = [numpy_helper.from_array(v, f"{prefix}.{key}") for key, v in of_tensor.items()]
    tensors += [
        numpy_helper.from_array(v, f"packed.{key}")
        for key, v in of_all.items()
        if f"packed.{key}" not in there
    ]

    def node(operator: str, inputs: str, output: str, **attributes: Any) -> "onnx.NodeProto":
        names = [f"packed.{x}" if x in of_all else f"{prefix}.{x}" for x in inputs.split()]
        return helper.make_node(operator, names, [output], **attributes)

    # Integer division and remainder take the bits apart alike on every runtime; shifts do not.
    nodes = [
        node("Cast", "bits", f"{prefix}.byte", to=TensorProto.INT32),
        node("Div", "byte powers", f"{prefix}.shifted"),
        node("Mod", "shifted two", f"{prefix}.bit"),
        node("Reshape", "bit flat", f"{prefix}.padded"),
        node("Slice", "padded first end", f"{prefix}.mask"),
        node("CumSum", "mask axis", f"{prefix}.place"),
        node("Mul", "place mask", f"{prefix}.index"),
        node("Gather", "values index", f"{prefix}.all"),
        node("Reshape", "all shape", name),
    ]
    onnx_weights.replace(model, name, tensors, nodes)
