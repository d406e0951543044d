"""A linear layer whose weight is a train of small tensors. Imports torch: import it where needed.

W[(m₁…m_d), (n₁…n_d)] = G₁[·, m₁, n₁, ·] G₂[·, m₂, n₂, ·] … G_d[·, m_d, n_d, ·]

Source: A. Novikov et al., "Tensorizing neural networks" (2015), section 3.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TensorTrainLinear(nn.Module):
    """`[…, inputs]` to `[…, outputs]` through cores `[rank before, mₖ, nₖ, rank after]`."""

    def __init__(
        self, outputs: Sequence[int], inputs: Sequence[int], ranks: Sequence[int], *, bias: bool
    ) -> None:
        super().__init__()
        ends = (1, *ranks, 1)
        self.cores = nn.ParameterList(
            torch.empty(ends[k], m, n, ends[k + 1])
            for k, (m, n) in enumerate(zip(outputs, inputs, strict=True))
        )
        self.bias = nn.Parameter(torch.zeros(math.prod(outputs))) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Contract one core after the other, never making the whole weight."""
        lead = x.shape[:-1]
        rest = x.shape[-1]
        z = x.reshape(-1, 1, rest)
        outputs = 1
        for core in self.cores:
            before, m, n, after = core.shape
            rest //= n
            matrix = core.permute(1, 3, 0, 2).reshape(m * after, before * n)
            z = (matrix @ z.reshape(-1, before * n, rest)).reshape(-1, after, rest)
            outputs *= m
        result = z.reshape(*lead, outputs)
        return result if self.bias is None else result + self.bias
