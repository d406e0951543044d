"""Image classifiers of three families, sized for a model's inputs and classes.

    Architecture(block="mobilenet", width=0.5).build(channels=3, size=32, classes=10)

- `resnet`: two 3×3 convolutions beside the identity. Source: K. He et al., "Deep residual learning
  for image recognition" (2015), figure 5 left.
- `mobilenet`: inverted residuals, 1×1 up, depthwise 3×3, 1×1 down. Source: M. Sandler et al.,
  "MobileNetV2: inverted residuals and linear bottlenecks" (2018), table 1.
- `efficientnet`: the same with squeeze-and-excitation. Source: M. Tan and Q. Le, "EfficientNet"
  (2019), section 4; J. Hu et al., "Squeeze-and-excitation networks" (2017), figure 3.

All activations are piecewise linear, because those keep their accuracy in int8.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import nn

Block = Literal["resnet", "mobilenet", "efficientnet"]
BLOCKS: tuple[Block, ...] = get_args(Block)

SMALLEST = 8
"""Inputs have at least so many rows and columns."""
LAST_SIZE = 7
"""Halving goes on until the picture has at most so many rows or columns."""
STAGES = 4
"""Stages at most; one more halving is the first layer's."""
EXPANSION = 4
"""Channels inside an inverted residual for each channel outside."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Family:
    """Channels and blocks of each stage, from the last stage backwards where there are fewer."""

    first: int
    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    last: int
    multiple: int


_FAMILIES: dict[Block, _Family] = {
    "resnet": _Family(
        first=32, channels=(32, 64, 128, 256), blocks=(1, 1, 1, 1), last=0, multiple=8
    ),
    "mobilenet": _Family(
        first=16, channels=(24, 48, 96, 160), blocks=(1, 2, 3, 2), last=480, multiple=8
    ),
    "efficientnet": _Family(
        first=16, channels=(24, 48, 96, 160), blocks=(1, 2, 3, 2), last=480, multiple=8
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """One network: its blocks, and its channels and blocks per stage against the family's own."""

    block: Block
    width: float = 1.0
    depth: float = 1.0

    def build(self, *, channels: int, size: int, classes: int) -> "nn.Sequential":
        """An untrained network, `[n, channels, h, w]` to `[n, classes]`.

        `size` is the smaller of h and w, at least 8; it tells how often the picture is halved.
        """
        from torch import nn

        family = _FAMILIES[self.block]
        first_stride, strides = _strides(size)
        have = self._wide(family.first)
        modules: list[nn.Module] = [_conv(channels, have, 3, stride=first_stride)]
        for index, stride in enumerate(strides):
            wanted = self._wide(family.channels[index - len(strides)])
            blocks = max(1, round(self.depth * family.blocks[index - len(strides)]))
            for number in range(blocks):
                modules.append(self._block(have, wanted, stride if number == 0 else 1))
                have = wanted
        if family.last:
            wanted = self._wide(family.last)
            modules.append(_conv(have, wanted, 1))
            have = wanted
        return nn.Sequential(
            *modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(have, classes)
        )

    def _wide(self, channels: int) -> int:
        multiple = _FAMILIES[self.block].multiple
        return max(multiple, round(channels * self.width / multiple) * multiple)

    def _block(self, inputs: int, outputs: int, stride: int) -> "nn.Module":
        if self.block == "resnet":
            return _residual(inputs, outputs, stride)
        return _inverted(inputs, outputs, stride, squeeze=self.block == "efficientnet")


def _strides(size: int) -> tuple[int, tuple[int, ...]]:
    """The stride of the first layer and of each stage."""
    halvings = max(0, math.ceil(math.log2(size / LAST_SIZE)))
    first = 2 if halvings >= STAGES else 1
    left = halvings - (first - 1)
    stages = min(STAGES, left + 1)
    return first, tuple(2 if stages - index <= left else 1 for index in range(stages))


def _conv(
    inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1, linear: bool = False
) -> "nn.Sequential":
    """A convolution and batch normalisation, and a rectifier unless `linear`."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(
            inputs, outputs, size, stride=stride, padding=size // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(outputs),
        *([] if linear else [nn.ReLU()]),
    )


def _residual(inputs: int, outputs: int, stride: int) -> "nn.Module":
    from torch import nn

    changes = stride > 1 or inputs != outputs
    return _beside(
        nn.Sequential(
            _conv(inputs, outputs, 3, stride=stride), _conv(outputs, outputs, 3, linear=True)
        ),
        _conv(inputs, outputs, 1, stride=stride, linear=True) if changes else nn.Identity(),
        nn.ReLU(),
    )


def _inverted(inputs: int, outputs: int, stride: int, *, squeeze: bool) -> "nn.Module":
    from torch import nn

    inner = inputs * EXPANSION
    path = nn.Sequential(
        _conv(inputs, inner, 1),
        _conv(inner, inner, 3, stride=stride, groups=inner),
        *([_squeeze(inner, max(8, inputs // 4))] if squeeze else []),
        _conv(inner, outputs, 1, linear=True),
    )
    if stride > 1 or inputs != outputs:
        return path
    return _beside(path, nn.Identity(), nn.Identity())


def _squeeze(channels: int, inner: int) -> "nn.Module":
    """Each channel scaled by what the means of all channels say."""
    import torch
    from torch import nn

    class Squeeze(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(channels, inner, 1),
                nn.ReLU(),
                nn.Conv2d(inner, channels, 1),
                nn.Hardsigmoid(),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gate: torch.Tensor = self.gate(x)
            return x * gate

    return Squeeze()


def _beside(path: "nn.Module", other: "nn.Module", after: "nn.Module") -> "nn.Module":
    """The sum of two ways from the same input, then `after`."""
    import torch
    from torch import nn

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.path, self.other, self.after = path, other, after

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            joined: torch.Tensor = self.after(self.path(x) + self.other(x))
            return joined

    return Beside()
