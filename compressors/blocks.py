"""The blocks of a network that can be left out: their output has the form of their input."""

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def droppable(model: "nn.Module", example: "tuple[Tensor, ...]") -> list[str]:
    """Names of the blocks, in their order: encoder layers, residual blocks.

    A block is a child of a list or sequence, has several layers of its own with weights, and gives
    a tensor of the shape and type of its first input. A sequence of such blocks is none itself.
    """
    import torch
    from torch import nn

    asked = {
        f"{owner}.{child}".lstrip("."): block
        for owner, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        for child, block in module.named_children()
        if any(True for _ in block.children()) and any(True for _ in block.parameters())
    }
    keeps: dict[str, bool] = {}

    def look(name: str) -> Any:
        def hook(_: Any, inputs: Any, output: Any) -> None:
            keeps[name] = (
                len(inputs) > 0
                and isinstance(output, torch.Tensor)
                and isinstance(inputs[0], torch.Tensor)
                and (inputs[0].shape, inputs[0].dtype) == (output.shape, output.dtype)
            )

        return hook

    hooks = [block.register_forward_hook(look(name)) for name, block in asked.items()]
    try:
        with torch.no_grad():
            model.eval()(*example)
    finally:
        for hook in hooks:
            hook.remove()
    found = [name for name in asked if keeps.get(name)]
    lists = [
        name
        for name in found
        if isinstance(asked[name], nn.Sequential)
        and any(f"{name}.{child}" in found for child, _ in asked[name].named_children())
    ]
    left = [name for name in found if name not in lists]
    return [name for name in left if not any(name.startswith(f"{outer}.") for outer in left)]


def without(model: "nn.Module", dropped: Iterable[str]) -> "nn.Module":
    """A copy of `model` that passes by the named blocks; the names of all others stay."""
    from compressors.skipped_layer import Skipped

    shorter = copy.deepcopy(model).eval()
    for name in dropped:
        shorter.set_submodule(name, Skipped())
    return shorter


def missing(names: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Those of the named blocks of which no weight is stored."""
    return [name for name in names if not any(key.startswith(f"{name}.") for key in shapes)]
