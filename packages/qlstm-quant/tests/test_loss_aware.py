"""LAB and LAT against closed forms, an implementation in plain Python, and every code there is."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from weight_cases import as_numpy, moments, weights

from qlstm_quant import BWN, LAB, LAT
from qlstm_quant.loss_aware import MAX_ITERATIONS


def importance(curvature: Tensor) -> np.ndarray:  # type: ignore[type-arg]
    return np.sqrt(as_numpy(curvature)) + 1e-8


@given(weights(), st.booleans())
def test_lab_is_the_sign_times_the_weighted_mean_magnitude(weight: Tensor, per_row: bool) -> None:
    w, d = as_numpy(weight), importance(moments(weight))
    axes = 2 if per_row else (1, 2)
    alpha = (d * np.abs(w)).sum(axes, keepdims=True) / d.sum(axes, keepdims=True)
    alpha = np.maximum(alpha, torch.finfo(torch.float32).tiny)
    quantized = as_numpy(LAB(per_row=per_row)(weight, moments(weight)))
    np.testing.assert_allclose(quantized, np.where(w < 0, -1, 1) * alpha, rtol=1e-5)


@given(weights(largest=3, dtype=torch.float64))
def test_no_scaled_signs_lose_less_than_those_of_lab(weight: Tensor) -> None:
    """Every sign pattern with its own weighted least-squares scale."""
    d = importance(moments(weight))
    quantized = as_numpy(LAB()(weight, moments(weight)))
    for gate, weighting, ours in zip(as_numpy(weight), d, quantized, strict=True):
        w, importances = gate.ravel(), weighting.ravel()
        codes = np.array(list(product((-1.0, 1.0), repeat=w.size)))
        scales = codes @ (importances * w) / importances.sum()
        losses = (importances * (w - scales[:, None] * codes) ** 2).sum(1)
        assert (weighting * (gate - ours) ** 2).sum() <= losses.min() + 1e-12 * (importances * w**2).sum()


@given(weights(), st.booleans())
def test_without_moments_lab_is_bwn(weight: Tensor, per_row: bool) -> None:
    torch.testing.assert_close(LAB(per_row=per_row)(weight), BWN(per_row=per_row)(weight))


@pytest.mark.parametrize("method", [LAB, LAT])
@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_the_size_of_the_moments_does_not_matter(method: type[LAB | LAT], factor: float) -> None:
    weight = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    curvature = moments(weight) + 0.1
    # √v must stay well above the 1e-8 that is added to it.
    expected = method()(weight, curvature * 1e8)
    torch.testing.assert_close(method()(weight, curvature * max(factor, 1e8)), expected, rtol=1e-6, atol=0)
    assert torch.isfinite(method()(weight, curvature * factor)).all()


def alternate(w: list[float], d: list[float]) -> tuple[float, list[int]]:
    """LAT in plain Python: α = Σ D b w / Σ D|b| and b = sign(w)·1[|w| > α/2], until nothing changes."""
    b = [1 if x >= 0 else -1 for x in w]
    alpha = -1.0
    while True:
        weight_of_kept = sum(di * abs(bi) for di, bi in zip(d, b, strict=True))
        if weight_of_kept == 0:
            return 0.0, b
        new = sum(di * bi * wi for di, bi, wi in zip(d, b, w, strict=True)) / weight_of_kept
        codes = [(1 if x > new / 2 else -1 if x < -new / 2 else 0) for x in w]
        if new == alpha and codes == b:
            return alpha, b
        alpha, b = new, codes


@settings(max_examples=60)
@given(weights(dtype=torch.float64), st.booleans(), st.booleans())
def test_lat_reaches_the_fixed_point_of_the_papers_alternation(
    weight: Tensor, per_row: bool, with_moments: bool
) -> None:
    curvature = moments(weight) if with_moments else torch.ones_like(weight)
    quantized = as_numpy(LAT(per_row=per_row)(weight, curvature if with_moments else None))
    w = as_numpy(weight)
    d = importance(curvature) if with_moments else np.ones_like(w)
    for index in np.ndindex(w.shape[:2] if per_row else w.shape[:1]):
        alpha, codes = alternate(w[index].ravel().tolist(), d[index].ravel().tolist())
        np.testing.assert_allclose(quantized[index].ravel(), alpha * np.array(codes), rtol=1e-9, atol=1e-14)


@settings(max_examples=40)
@given(weights(largest=3, dtype=torch.float64))
def test_lat_against_every_code(weight: Tensor) -> None:
    """At least as good as its start; the best codes for its scale, and the best scale for its codes."""
    curvature = moments(weight)
    quantized = as_numpy(LAT()(weight, curvature))
    for gate, weighting, ours in zip(as_numpy(weight), importance(curvature), quantized, strict=True):
        w, d, q = gate.ravel(), weighting.ravel(), ours.ravel()
        loss, slack = (d * (w - q) ** 2).sum(), 1e-12 * (d * w**2).sum()
        every = np.array(list(product((-1.0, 0.0, 1.0), repeat=w.size)))
        assert loss <= (d * (w - np.abs(q).max() * every) ** 2).sum(1).min() + slack
        for factor in (0.99, 1.01):
            assert loss <= (d * (w - factor * q) ** 2).sum() + slack
        start = (d * np.abs(w)).sum() / d.sum() * np.where(w < 0, -1, 1)
        assert loss <= (d * (w - start) ** 2).sum() + slack


def test_lat_ends_on_weights_made_to_keep_it_going() -> None:
    """Here each alternation drops the smallest weight that is left, more often than the bound allows."""
    count = MAX_ITERATIONS + 50
    position = torch.arange(count, dtype=torch.float64).reshape(1, 1, -1)
    # Half the mean of weights k, k + 1, …, counted by d, is 1.08 times weight k.
    w, d = 2.5**position, 3.8 ** (count - position)
    quantized = LAT()(w, d**2)
    alpha, codes = alternate(w.flatten().tolist(), d.flatten().tolist())
    assert sum(codes) < 10
    kept = quantized.flatten() != 0
    assert int(kept.sum()) == count - MAX_ITERATIONS
    mean_of_kept = ((d * w).flatten()[kept].sum() / d.flatten()[kept].sum()).item()
    assert quantized.unique().tolist() == pytest.approx([0.0, mean_of_kept], rel=1e-9)
    assert mean_of_kept < alpha


@pytest.mark.parametrize("shape", [(2, 3), (1, 3, 4)])
def test_moments_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    wanted = f"curvature must have the weight's shape (2, 3, 4), got {shape}"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        LAB()(torch.randn(2, 3, 4), torch.ones(shape))
