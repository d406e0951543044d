"""torch weights as safetensors, which hold data only; torch's own pickles are never written."""

from pathlib import Path
from typing import TYPE_CHECKING

from variants.errors import Invalid

if TYPE_CHECKING:
    from torch import nn


def save(model: "nn.Module", path: Path) -> None:
    """Write the module's parameters and buffers, aside first, so that a reader sees all or none."""
    from safetensors.torch import save_file

    aside = path.with_suffix(".partial")
    state = {
        name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()
    }
    save_file(state, aside)
    aside.replace(path)


def load(model: "nn.Module", path: Path) -> None:
    """Fill the module from `path`. Raises `Invalid` where names or shapes differ."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise Invalid(f"{path}: stored weights do not fit the model: {error}") from error
    model.eval()


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each stored tensor by name, without reading the tensors.

    Raises `Invalid` where the file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, OSError) as error:
        raise Invalid(f"{path}: not stored weights: {error}") from error
