"""Spectral norms by iteration, against singular value decomposition, and their lower bounds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qlstm_bench.gradients.spectral import (
    TOLERANCE,
    norm_of_levels,
    norm_of_signs,
    smallest_level,
    sparsity,
    spectral_norms,
)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 40), st.integers(1, 40), st.integers(0, 5), st.integers(0, 10**6),
    st.sampled_from([1e-12, 1.0, 1e12]),
)  # fmt: skip
def test_equals_singular_value_decomposition(
    count: int, rows: int, cols: int, rank: int, seed: int, size: float
) -> None:
    torch.manual_seed(seed)
    matrices = size * torch.randn(count, rows, cols, dtype=torch.float64)
    if rank:  # of low rank, with signs: many singular values are zero, or equal
        left, right = torch.randn(count, rows, rank), torch.randn(count, rank, cols)
        matrices = size * (left @ right).sign().double() * (torch.arange(count) != 1).view(-1, 1, 1)
    expected = torch.linalg.matrix_norm(matrices, ord=2)
    torch.testing.assert_close(spectral_norms(matrices), expected, rtol=TOLERANCE / 2, atol=0)
    torch.testing.assert_close(spectral_norms(matrices, 1e-10), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "dtype, tolerance, error", [(torch.float64, 1e-4, 1e-7), (torch.float32, 1e-3, 1e-5)]
)
def test_large_random_signs_have_close_singular_values(
    dtype: torch.dtype, tolerance: float, error: float
) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(2, 200, 200, dtype=dtype).sign()
    values = torch.linalg.svdvals(matrices)
    assert bool((values[:, 1] > 0.93 * values[:, 0]).all())
    torch.testing.assert_close(spectral_norms(matrices, tolerance), values[:, 0], rtol=error, atol=0)


def test_edge_cases() -> None:
    assert spectral_norms(torch.zeros(3, 4, 5)).tolist() == [0, 0, 0]
    assert spectral_norms(torch.zeros(2, 0, 5)).tolist() == [0, 0]
    assert spectral_norms(-3 * torch.eye(6)).item() == pytest.approx(3)
    assert spectral_norms(torch.tensor([[math.nan, 1.0], [0.0, 1.0]])).item() == math.inf
    assert spectral_norms(torch.ones(2, 3, 4, 5)).shape == (2, 3)


def test_random_generators_stay_as_they_are() -> None:
    before = torch.get_rng_state()
    spectral_norms(torch.randn(9, 9, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_lower_bounds_hold(levels: int) -> None:
    """‖W‖ ≥ √d for signs, ‖W‖ ≥ (1 − s) B₁ √d with levels 0, ±B₁, …, and √(1 − s) B₁ √d between the two."""
    for seed in range(500):
        torch.manual_seed(seed)
        size = 1 + seed % 24
        matrices = torch.randn(4, size, size, dtype=torch.float64).sign()
        if levels > 1:
            matrices *= torch.randint(0, levels, matrices.shape) * (0.1 + torch.rand(()))
        norms = torch.linalg.matrix_norm(matrices, ord=2) * (1 + 1e-12)
        assert bool((norms >= norm_of_levels(matrices)).all())
        tighter = (1 - sparsity(matrices)).sqrt() * smallest_level(matrices) * math.sqrt(size)
        assert bool((norms >= tighter).all())
        assert bool((tighter >= norm_of_levels(matrices) * (1 - 1e-12)).all())
        if levels == 1:
            torch.testing.assert_close(norm_of_signs(matrices), torch.full((4,), math.sqrt(size)).double())
            assert bool((norms >= norm_of_signs(matrices)).all())


def test_lower_bounds_of_rectangles() -> None:
    matrices = torch.ones(1, 3, 12, dtype=torch.float64)
    matrices[0, 0] = -1
    assert norm_of_signs(matrices).item() == pytest.approx(math.sqrt(12))
    assert spectral_norms(matrices).item() == pytest.approx(6)  # of rank one
    matrices[0, :, ::2] = 0
    assert sparsity(matrices).item() == 0.5
    assert norm_of_levels(2 * matrices).item() == pytest.approx(0.5 * 2 * math.sqrt(12))
    assert smallest_level(torch.zeros(1, 2, 2)).item() == 0
