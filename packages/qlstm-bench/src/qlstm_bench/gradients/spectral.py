"""Spectral norms of weight matrices, and how small quantization lets them be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TOLERANCE = 1e-3
_CHECKED_EVERY = 8


@torch.no_grad()
def spectral_norms(matrices: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Return the largest singular value of each matrix, by power iteration that keeps all its vectors.

    From the span of ``v, Av, A²v, …`` with ``A = WᵀW`` and a random v (the Lanczos iteration) it takes the
    best approximation u of the first right singular vector, until ``‖A u − σ² u‖ ≤ tolerance · σ²`` with
    ``σ = ‖W u‖`` for each matrix. A singular value then lies within ``tolerance/2 · σ`` of σ, which never
    exceeds the largest; the error of σ is about the tolerance's square. Plain power iteration keeps the last
    vector alone and needs hundreds of products where the largest values are close, as in random matrices.

    Args:
        matrices: ``(…, rows, cols)``, floating point.
        tolerance: relative; float32 does not allow less than the default, float64 down to 1e-12.

    Returns:
        ``(…)``, on the matrices' device and in their dtype; infinite for a matrix that is not finite.

    Source: Golub and Van Loan, Matrix Computations, sections 8.2 (power iteration) and 10.1 (Lanczos).
    """
    if matrices.numel() == 0:
        return matrices.new_zeros(matrices.shape[:-2])
    w = matrices.reshape(-1, *matrices.shape[-2:])
    w = w.transpose(-1, -2) if w.shape[-1] > w.shape[-2] else w
    finite = w.isfinite().all(-1).all(-1)
    w = torch.where(finite[:, None, None], w, torch.zeros_like(w))
    scale = w.abs().amax((-2, -1), keepdim=True)
    w = w / torch.where(scale > 0, scale, torch.ones_like(scale))
    count, _, size = w.shape
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(size, 1, generator=generator, dtype=torch.float64).to(w).expand(count, -1, -1)
    v = v / torch.linalg.vector_norm(v, dim=1, keepdim=True)
    basis = w.new_zeros(count, size, 0)
    tridiagonal = w.new_zeros(count, size, size)
    tiny = 10 * torch.finfo(w.dtype).eps * w.square().sum((-2, -1))  # what rounding makes of a zero
    top = w.new_zeros(count)
    for k in range(size):
        basis = torch.cat([basis, v], -1)
        v = w.transpose(-1, -2) @ (w @ v)
        for _ in range(2):  # twice: rounding leaves a part of the earlier vectors the first time
            overlap = basis.transpose(-1, -2) @ v
            v = v - basis @ overlap
            tridiagonal[:, k, k] += overlap[:, k, 0]
        beta = torch.linalg.vector_norm(v, dim=(1, 2))
        if k + 1 == size or k % _CHECKED_EVERY == _CHECKED_EVERY - 1:
            values, vectors = torch.linalg.eigh(tridiagonal[:, : k + 1, : k + 1])
            top = values[:, -1]
            if bool((beta * vectors[:, -1, -1].abs() <= tolerance * top + tiny).all()):
                break
        if k + 1 < size:
            beta = torch.where(beta > tiny, beta, torch.zeros_like(beta))
            tridiagonal[:, k, k + 1] = tridiagonal[:, k + 1, k] = beta
            v = v / torch.where(beta > 0, beta, torch.full_like(beta, torch.inf))[:, None, None]
    norms = torch.where(finite, top.clamp(min=0).sqrt() * scale[:, 0, 0], torch.full_like(top, torch.inf))
    return norms.reshape(matrices.shape[:-2])


def sparsity(matrices: Tensor) -> Tensor:
    """Return s, the share of zeros in each matrix: ``(…)`` from ``(…, rows, cols)``."""
    return (matrices == 0).to(matrices).mean((-2, -1))


def smallest_level(matrices: Tensor) -> Tensor:
    """Return B₁, the smallest magnitude but zero of each matrix; 0 for a matrix of zeros."""
    magnitudes = matrices.abs().masked_fill(matrices == 0, math.inf).flatten(-2).amin(-1)
    return magnitudes.masked_fill(magnitudes.isinf(), 0.0)


def norm_of_signs(matrices: Tensor) -> Tensor:
    """Return ``B₁ √d``, which ``‖W‖`` is at least when every element is ±B₁ or larger.

    For ``rows × cols``, d is the larger: ``‖W‖² ≥ ‖W‖_F² / min(rows, cols)``.

    Source: Hou et al. 2019, "For any W ∈ {−1, +1}^{d×d}, ‖W‖ ≥ √d".
    """
    return smallest_level(matrices) * math.sqrt(max(matrices.shape[-2:]))


def norm_of_levels(matrices: Tensor) -> Tensor:
    """Return ``(1 − s) B₁ √d``, which ``‖W‖`` is at least for levels 0, ±B₁, … of sparsity s.

    ``√(1 − s) B₁ √d``, which is larger, is a lower bound too, by the same argument.

    Source: Hou et al. 2019, for W ∈ {−B_k, …, B_k}^{d×d}.
    """
    return (1 - sparsity(matrices)) * norm_of_signs(matrices)
