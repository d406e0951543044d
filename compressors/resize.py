"""A module whose layers take the sizes of stored weights, so that those can be loaded into it.

    smaller = resize.resized(model, weights.shapes(path))
    weights.load(smaller, path)

Sizes follow from the shapes alone: features, channels, depthwise groups, rows of an embedding, and
the heads of an attention whose heads keep their width. Weights do not matter afterwards.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from variants.errors import Invalid

if TYPE_CHECKING:
    from torch import nn


def resized(model: "nn.Module", shapes: Mapping[str, tuple[int, ...]]) -> "nn.Module":
    """A copy of `model` whose parameters and buffers have these shapes.

    Raises `Invalid` where the names differ: only sizes may change.
    """
    smaller = copy.deepcopy(model)
    if (other := set(smaller.state_dict()) ^ set(shapes)) != set():
        raise Invalid(f"the stored weights are of another form; they differ in {min(other)!r}")
    for name, tensor in smaller.state_dict().items():
        if tuple(tensor.shape) != tuple(shapes[name]):
            _replace(smaller, name, shapes[name])
    for module in smaller.modules():
        _state_sizes(module)
    for attention in attentions(smaller):
        count_heads(attention)
    return smaller


def attentions(model: "nn.Module") -> Iterator[Any]:
    """The attention modules that say how wide a head is: linear layers `query`, `key` and `value`,
    and a number `head_dim` or `head_size`.
    """
    from torch import nn

    for module in model.modules():
        parts = (getattr(module, name, None) for name in ("query", "key", "value"))
        if all(isinstance(part, nn.Linear) for part in parts) and head_width(module):
            yield module


def head_width(attention: Any) -> int:
    """Features of one head; 0 where the module does not say."""
    return int(getattr(attention, "head_dim", 0) or getattr(attention, "head_size", 0))


def heads(attention: Any) -> int:
    """How many heads its layers hold."""
    return int(attention.query.out_features // head_width(attention))


def count_heads(attention: Any) -> None:
    """Let `num_heads`, where the module keeps it, say how many heads there are."""
    if hasattr(attention, "num_heads"):
        attention.num_heads = heads(attention)


def _replace(model: "nn.Module", name: str, shape: tuple[int, ...]) -> None:
    from torch import nn

    owner, _, attribute = name.rpartition(".")
    holder = model.get_submodule(owner)
    old = getattr(holder, attribute)
    new = old.new_zeros(shape)
    setattr(holder, attribute, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)


def _state_sizes(module: "nn.Module") -> None:
    """Let the module's own numbers say what its weight's shape says."""
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    match module:
        case nn.Linear():
            module.out_features, module.in_features = module.weight.shape
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            outputs, inputs_of_group = module.weight.shape[:2]
            if module.groups > 1 and module.groups == module.in_channels:
                module.groups = outputs * module.groups // module.out_channels
            module.out_channels = outputs
            module.in_channels = inputs_of_group * module.groups
        case _BatchNorm() if module.running_mean is not None:
            module.num_features = len(module.running_mean)
        case nn.LayerNorm() if module.elementwise_affine:
            module.normalized_shape = tuple(module.weight.shape)
        case nn.GroupNorm() if module.affine:
            module.num_channels = len(module.weight)
        case nn.Embedding():
            module.num_embeddings, module.embedding_dim = module.weight.shape
        case _:
            pass
