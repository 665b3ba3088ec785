"""Spectral norms of weight matrices, and how small quantization lets them be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TOLERANCE = 1e-4
_BLOCK = 8
_STEPS = 250
_POWERS = 4  # products between two orthogonalisations, which cost more than a product does


@torch.no_grad()
def spectral_norms(matrices: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Return the largest singular value of each matrix, by power iteration on a block of vectors.

    Iterates ``V ← orth(WᵀW V)`` and takes from the block the best approximation v to the first right singular
    vector (Rayleigh and Ritz), until for each matrix ``‖WᵀW v − σ² v‖ ≤ tolerance · σ²`` with ``σ = ‖W v‖``.
    A singular value then lies within ``tolerance/2 · σ`` of σ, which itself never exceeds the largest. A
    block sees several of the largest at once, so that it converges where two are nearly equal. What has not
    converged after 1000 products gets a singular value decomposition.

    Args:
        matrices: ``(…, rows, cols)``, floating point, finite.
        tolerance: relative, of the residual; the error of σ is about its square. 1e-4 suits float64, 1e-3
            float32.

    Returns:
        ``(…)``, on the matrices' device and in their dtype.

    Source: Golub and Van Loan, Matrix Computations, section 8.2 (orthogonal iteration).
    """
    if matrices.numel() == 0:
        return matrices.new_zeros(matrices.shape[:-2])
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    if flat.shape[-1] > flat.shape[-2]:
        flat = flat.transpose(-1, -2)
    scale = flat.abs().amax((-2, -1), keepdim=True)
    flat = flat / torch.where(scale > 0, scale, torch.ones_like(scale))
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(flat.shape[-1], min(_BLOCK, flat.shape[-1]), generator=generator, dtype=torch.float64)
    vectors = torch.linalg.qr(block.to(flat)).Q.expand(len(flat), -1, -1)
    for _ in range(_STEPS):
        products = flat.transpose(-1, -2) @ (flat @ vectors)
        values, rotation = torch.linalg.eigh(vectors.transpose(-1, -2) @ products)
        top, turn = values[:, -1], rotation[:, :, -1:]
        residual = torch.linalg.vector_norm((products - top[:, None, None] * vectors) @ turn, dim=(-2, -1))
        if bool((residual <= tolerance * top).all()):
            norms = top.clamp(min=0).sqrt()
            break
        unit = torch.where(top > 0, top, torch.ones_like(top))[:, None, None]
        for _ in range(_POWERS - 1):
            products = flat.transpose(-1, -2) @ (flat @ (products / unit))
        vectors = torch.linalg.qr(products).Q
    else:
        norms = torch.linalg.matrix_norm(flat, ord=2)
    result: Tensor = (norms * scale[:, 0, 0]).reshape(matrices.shape[:-2])
    return result


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
