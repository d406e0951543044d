"""How many singular values of a matrix are worth keeping."""

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


def singular(matrix: "Tensor") -> "tuple[Tensor, Tensor]":
    """Left singular vectors `[rows, k]` and singular values `[k]`, falling.

    From the eigenvectors of M Mᵀ, several times faster than a full decomposition; what squaring
    loses lies in the smallest values, which are cut off anyway.
    """
    import torch

    with torch.no_grad():
        squares, vectors = torch.linalg.eigh(matrix @ matrix.T)
        kept = min(matrix.shape)
        return vectors.flip(1)[:, :kept], squares.flip(0)[:kept].clamp_min(0).sqrt()


def by_energy(matrix: "Tensor", energy: float) -> int:
    """The smallest rank that keeps this share of the squared singular values."""
    return rank_for(singular(matrix)[1], energy)


def rank_for(values: "Tensor", energy: float) -> int:
    """The smallest r with Σ_{i≤r} σᵢ² ≥ energy × Σ σᵢ²; `values` `[k]`, falling."""
    import torch

    shares = torch.cumsum(values.double() ** 2, dim=0)
    return min(len(values), int((shares < energy * shares[-1]).sum()) + 1)


def by_vbmf(matrix: "Tensor") -> int:
    """How many singular values stand out of noise, at least 1, without a setting.

    Empirical variational Bayesian matrix factorisation. Source: S. Nakajima, M. Sugiyama,
    S. D. Babacan, R. Tomioka, "Global analytic solution of fully-observed variational Bayesian
    matrix factorization" (2013), theorem 2 and corollary 3; τ̄ ≈ 2.5129 √α from section 4.
    """
    from scipy.optimize import minimize_scalar

    rows, columns = sorted(matrix.shape)
    squares = singular(matrix)[1].double().numpy() ** 2
    alpha = rows / columns
    tau = 2.5129 * math.sqrt(alpha)
    limit = (1 + tau) * (1 + alpha / tau)
    most = min(math.ceil(rows / (1 + alpha)) - 1, rows - 1)
    upper = float(squares.sum()) / (rows * columns)
    rest = squares[most:]
    lower = max(float(rest[0]) / (columns * limit), float(rest.mean()) / columns)
    if not 0 < lower < upper:
        return max(1, int((squares > 0).sum()))
    found = minimize_scalar(
        lambda noise: (
            _free_energy(squares / (columns * noise), alpha, limit)
            + (rows - len(squares)) * math.log(noise)
        ),
        bounds=(lower, upper),
        method="bounded",
    )
    return max(1, int((squares > columns * float(found.x) * limit).sum()))


def _free_energy(x: NDArray[np.float64], alpha: float, limit: float) -> float:
    """The part of the free energy that depends on the noise; equation 30 of the source."""
    signal, noise = x[x > limit], np.maximum(x[x <= limit], np.finfo(np.float64).tiny)
    inner = signal - (1 + alpha)
    tau = 0.5 * (inner + np.sqrt(inner**2 - 4 * alpha))
    return float(
        (noise - np.log(noise)).sum()
        + (signal - tau + np.log((tau + 1) / signal) + alpha * np.log(tau / alpha + 1)).sum()
    )
