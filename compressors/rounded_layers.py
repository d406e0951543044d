"""Layers that compute with rounded weights, and rounded inputs where asked to, as they train.

The gradient passes the rounding as if it were not there (straight-through estimator). Exported, a
layer becomes integers and a DequantizeLinear. Imports torch, so techniques import it when they run.
"""

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import fusion

from compressors.techniques.weight_only import quantise

_RANGE_MOMENTUM = 0.05


class LearnedSteps(nn.Module):
    """q = round(clip(w ÷ s, −Q, Q)) with Q = 2^(bits−1) − 1 and one trained s per output channel.

    Source: S. K. Esser et al., "Learned step size quantization" (2020), eq. 1 to 3 and section 2.2;
    s starts where it makes the least squared error.
    """

    def __init__(self, bits: int, weight: Tensor) -> None:
        super().__init__()
        rows = np.ascontiguousarray(weight.detach().flatten(1).numpy(), np.float32)
        _, scale = quantise(rows, bits)
        self.scale = nn.Parameter(torch.from_numpy(scale))
        self.top = 2 ** (bits - 1) - 1

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Integers as floats, in the shape of `weight`, and scales `[out]`."""
        share = 1 / math.sqrt(weight[0].numel() * self.top)
        scale = self.scale * share + (self.scale * (1 - share)).detach()
        scale = scale.abs().clamp_min(torch.finfo(torch.float32).tiny)
        return _round(torch.clamp(weight / _column(scale, weight), -self.top, self.top)), scale


class Signs(nn.Module):
    """q = sign(w), s = mean |w| of the output channel; no gradient where |w| > 1.

    Source: M. Rastegari et al., "XNOR-Net" (2016), eq. 6 and section 3.1.
    """

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """As `LearnedSteps.forward`."""
        scale = weight.flatten(1).abs().mean(dim=1).detach()
        inside = weight.clamp(-1, 1)
        signs = torch.where(weight >= 0, 1.0, -1.0)
        return inside + (signs - inside).detach(), scale


class Thirds(nn.Module):
    """q = sign(w) where |w| > Δ = 0.7 × mean |w|, else 0; s = mean |w| where q is not 0.

    Source: F. Li, B. Zhang, B. Liu, "Ternary weight networks" (2016), eq. 5 and 6.
    """

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """As `LearnedSteps.forward`."""
        size = weight.detach().flatten(1).abs()
        kept = size > 0.7 * size.mean(dim=1, keepdim=True)
        scale = (size * kept).sum(dim=1) / kept.sum(dim=1).clamp_min(1)
        inside = weight.clamp(-1, 1)
        signs = weight.sign() * kept.view_as(weight)
        return inside + (signs - inside).detach(), scale


class Range(nn.Module):
    """Inputs rounded to 8 bits between the running extremes of what was seen while training.

    Source: B. Jacob et al. (2018), section 3.1.
    """

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid, in its own shape."""
        if self.training:
            self._see(x.detach())
        scale = ((self.high - self.low) / 255).clamp_min(1e-12)
        zero = torch.round(-self.low / scale)
        if torch.onnx.is_in_onnx_export():
            point = zero.to(torch.uint8)
            stored = _operator("QuantizeLinear", (x, scale, point), torch.uint8, x.shape)
            return _operator("DequantizeLinear", (stored, scale, point), x.dtype, x.shape)
        return (_round(torch.clamp(x / scale + zero, 0, 255)) - zero) * scale

    def _see(self, x: Tensor) -> None:
        low, high = x.min().clamp_max(0), x.max().clamp_min(0)
        first = bool(self.high == self.low)
        self.low.lerp_(low, 1.0 if first else _RANGE_MOMENTUM)
        self.high.lerp_(high, 1.0 if first else _RANGE_MOMENTUM)


class _Rounded(nn.Module):
    """What rounded layers share. `integers` and `scales` follow the weights at each `eval()`."""

    weight: Tensor
    bias: Any
    integers: Tensor
    scales: Tensor
    rounding: nn.Module
    inputs: nn.Module

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if not mode:
            with torch.no_grad():
                whole, scales = self.rounding(self.weight)
            self.integers = whole.to(torch.int8)
            self.scales = scales.clone()
        return self

    def rounded(self) -> Tensor:
        """The weights on their grid."""
        if torch.onnx.is_in_onnx_export():
            stored = (self.integers, self.scales)
            shape = self.weight.shape
            return _operator("DequantizeLinear", stored, torch.float32, shape, axis=0)
        whole, scales = self.rounding(self.weight)
        product: Tensor = whole * _column(scales, whole)
        return product


class RoundedLinear(_Rounded, nn.Linear):
    """A linear layer with rounded weights."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Linear`."""
        return functional.linear(self.inputs(input), self.rounded(), self.bias)


class RoundedConv1d(_Rounded, nn.Conv1d):
    """A convolution with rounded weights."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Conv1d`."""
        found: Tensor = self._conv_forward(self.inputs(input), self.rounded(), self.bias)
        return found


class RoundedConv2d(_Rounded, nn.Conv2d):
    """A convolution with rounded weights."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Conv2d`."""
        found: Tensor = self._conv_forward(self.inputs(input), self.rounded(), self.bias)
        return found


_FORMS: dict[type[nn.Module], type[_Rounded]] = {
    nn.Linear: RoundedLinear,
    nn.Conv1d: RoundedConv1d,
    nn.Conv2d: RoundedConv2d,
}


def layers(model: nn.Module) -> tuple[tuple[str, Any], ...]:
    """The layers that can be rounded and are not yet, in the module's order."""
    return tuple((name, m) for name, m in model.named_modules() if type(m) in _FORMS)


def make_rounded(layer: nn.Module, rounding: nn.Module, inputs: nn.Module) -> None:
    """Turn a layer of `layers` into its rounded form, in place; weights keep their names."""
    layer.__class__ = _FORMS[type(layer)]
    layer.rounding, layer.inputs = rounding, inputs
    layer.register_buffer("integers", None, persistent=False)
    layer.register_buffer("scales", None, persistent=False)


def without_batch_norms(model: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
    """A copy of `model` with each batch normalisation folded into the layer just before it.

    Which one that is shows as the example runs. Source: B. Jacob et al. (2018), section 3.2.
    """
    folded = copy.deepcopy(model).eval()
    for layer_name, norm_name in list(_followed_by_norm(folded, example)):
        layer, norm = folded.get_submodule(layer_name), folded.get_submodule(norm_name)
        fuse = (
            fusion.fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fusion.fuse_conv_bn_eval
        )
        folded.set_submodule(layer_name, fuse(layer, norm))  # type: ignore[type-var,arg-type]  # by _followed_by_norm
        folded.set_submodule(norm_name, nn.Identity())
    return folded


def _followed_by_norm(model: nn.Module, example: tuple[Tensor, ...]) -> Iterator[tuple[str, str]]:
    """Pairs of a layer's name and the name of the normalisation that takes what it gives."""
    made: dict[int, tuple[str, Tensor]] = {}
    taken: dict[str, list[str]] = {}
    hooks = []
    for name, module in model.named_modules():
        if type(module) in _FORMS:
            hooks.append(
                module.register_forward_hook(
                    lambda _, __, out, name=name: made.update({id(out): (name, out)})
                )
            )
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):

            def note(_: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
                if id(given[0]) in made:
                    taken.setdefault(made[id(given[0])][0], []).append(name)

            hooks.append(module.register_forward_pre_hook(note))
    with torch.inference_mode():
        model(*example)
    for hook in hooks:
        hook.remove()
    return ((layer, norms[0]) for layer, norms in taken.items() if len(norms) == 1)


def _round(x: Tensor) -> Tensor:
    return x + (torch.round(x) - x).detach()


def _column(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.ndim - 1))


def _operator(
    name: str, inputs: tuple[Tensor, ...], dtype: Any, shape: Any, **given: Any
) -> Tensor:
    """The ONNX operator of this name in the exported graph."""
    made: Tensor = torch.onnx.ops.symbolic(name, inputs, given, dtype=dtype, shape=shape)
    return made
