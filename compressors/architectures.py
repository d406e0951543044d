"""Image classifiers of three families, sized for a model's inputs and classes.

    Architecture(block="mobilenet", width=0.5).build(channels=3, size=32, classes=10)

- `resnet`: stages that begin with one 3×3 convolution and go on with residual blocks, two 3×3
  convolutions beside the identity. Sources: K. He et al., "Deep residual learning for image
  recognition" (2015), figure 2; the layout, without projections, D. Page, "How to train your
  ResNet" (2018).
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
        first=32, channels=(32, 64, 128, 256), blocks=(0, 1, 1, 1), last=0, multiple=8
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
            blocks = family.blocks[index - len(strides)]
            blocks = max(min(1, blocks), round(self.depth * blocks))
            modules += self._stage(have, wanted, stride, blocks)
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

    def _stage(self, inputs: int, outputs: int, stride: int, blocks: int) -> list["nn.Module"]:
        if self.block == "resnet":
            changes = stride > 1 or inputs != outputs
            first = [_conv(inputs, outputs, 3, stride=stride)] if changes else []
            return [*first, *(_residual(outputs) for _ in range(blocks))]
        squeeze = self.block == "efficientnet"
        return [
            _inverted(outputs if number else inputs, outputs, 1 if number else stride, squeeze)
            for number in range(blocks)
        ]


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


def _residual(channels: int) -> "nn.Module":
    from torch import nn

    return _beside(nn.Sequential(_conv(channels, channels, 3), _conv(channels, channels, 3)))


def _inverted(inputs: int, outputs: int, stride: int, squeeze: bool) -> "nn.Module":
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
    return _beside(path)


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


def _beside(path: "nn.Module") -> "nn.Module":
    """The sum of the input and what `path` makes of it."""
    import torch
    from torch import nn

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.path = path

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            joined: torch.Tensor = x + self.path(x)
            return joined

    return Beside()
