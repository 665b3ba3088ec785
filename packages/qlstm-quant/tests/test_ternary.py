"""Ternary methods against their papers, by closed form and by counting draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from weight_cases import as_numpy, weights

from qlstm_quant import STN, TWN, AbsMean, TerConnect

DRAWS = 20_000


def clear_of(threshold: np.ndarray, w: np.ndarray) -> bool:  # type: ignore[type-arg]
    """Whether no weight is so near its threshold that rounding decides."""
    return bool((np.abs(np.abs(w) - threshold) > 1e-5 * threshold).all() or (w == 0).all())


@given(weights(), st.booleans())
def test_ter_connect_thresholds_at_0_7_of_the_mean(weight: Tensor, per_row: bool) -> None:
    w = as_numpy(weight)
    threshold = 0.7 * np.abs(w).mean(2 if per_row else (1, 2), keepdims=True)
    assume(clear_of(threshold, w))
    expected = np.where(w > threshold, 1, np.where(w < -threshold, -1, 0))
    np.testing.assert_array_equal(as_numpy(TerConnect(per_row=per_row)(weight)), expected)


@given(weights(), st.booleans())
def test_twn_scales_by_the_mean_above_the_threshold(weight: Tensor, per_row: bool) -> None:
    w = as_numpy(weight)
    threshold = 0.7 * np.abs(w).mean(2 if per_row else (1, 2), keepdims=True)
    assume(clear_of(threshold, w))
    expected = np.zeros_like(w)
    for index in np.ndindex(w.shape[:2] if per_row else w.shape[:1]):
        group, limit = w[index], threshold[index]
        kept = np.abs(group) > limit
        if kept.any():
            expected[index] = np.sign(group) * kept * np.abs(group)[kept].mean()
    np.testing.assert_allclose(as_numpy(TWN(per_row=per_row)(weight)), expected, rtol=1e-6)


@given(weights(dtype=torch.float64))
def test_no_other_scale_suits_the_codes_of_twn_better(weight: Tensor) -> None:
    quantized = TWN()(weight)
    error = ((weight - quantized) ** 2).sum((1, 2))
    for factor in (0.9, 0.999, 1.001, 1.1):
        assert (((weight - factor * quantized) ** 2).sum((1, 2)) >= error).all()


@given(weights(), st.booleans())
def test_absmean_rounds_the_ratio_to_the_mean(weight: Tensor, per_row: bool) -> None:
    w = as_numpy(weight)
    gamma = np.abs(w).mean(2 if per_row else (1, 2), keepdims=True)
    assume(clear_of(gamma / 2, w))
    expected = gamma * np.round(np.clip(w / np.where(gamma > 0, gamma, 1), -1, 1))
    np.testing.assert_allclose(as_numpy(AbsMean(per_row=per_row)(weight)), expected, rtol=1e-6)


def draw(quantizer: torch.nn.Module, row: list[float]) -> np.ndarray:  # type: ignore[type-arg]
    """Quantize ``row`` many times at once: one gate of DRAWS equal rows."""
    torch.manual_seed(0)
    weight = torch.tensor(row).expand(1, DRAWS, len(row))
    return as_numpy(quantizer(weight))[0]


def assert_kept_with(samples: np.ndarray, row: list[float], limit: float) -> None:  # type: ignore[type-arg]
    """Each sample is 0 or limit·sign(w), the latter with probability min(|w|/limit, 1), to 5 standard errors.

    Mean and variance follow: clip(w) and |w|·limit − w².
    """
    p = np.minimum(np.abs(row) / limit, 1)
    np.testing.assert_allclose(samples * (samples != 0), np.sign(row) * limit * (samples != 0), rtol=1e-6)
    assert (np.abs((samples != 0).mean(0) - p) <= 5 * np.sqrt(p * (1 - p) / DRAWS)).all()
    np.testing.assert_allclose(samples.mean(0), np.clip(row, -limit, limit), atol=5 * limit / np.sqrt(DRAWS))
    variance = np.minimum(np.abs(row), limit) * limit - np.clip(row, -limit, limit) ** 2
    np.testing.assert_allclose(samples.var(0), variance, atol=5 * limit**2 / np.sqrt(DRAWS))


def test_stochastic_ter_connect_keeps_the_sign_with_probability_of_the_magnitude() -> None:
    row = [-2.0, -1.0, -0.4, 0.0, 0.05, 0.5, 0.99, 1.0]
    assert_kept_with(draw(TerConnect(stochastic=True), row), row, 1.0)


def test_stn_keeps_the_sign_with_probability_of_the_magnitude_over_w0() -> None:
    w0 = float(np.sqrt(6 / (6 + DRAWS)) / 2)
    row = [-4 * w0, -w0, -0.25 * w0, 0.0, 0.6 * w0, w0]
    assert_kept_with(draw(STN(), row), row, w0)


def test_stochastic_ter_connect_in_eval_is_the_deterministic_one() -> None:
    weight = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(TerConnect(stochastic=True).eval()(weight), TerConnect()(weight))


def test_stn_in_eval_takes_the_nearest_level() -> None:
    weight = torch.tensor([[[-1.0, -0.26, -0.24, 0.0, 0.24, 0.26, 0.6]]])
    w0 = float(np.sqrt(6 / 8) / 2)  # 0.433: half of it is 0.2165
    expected = [-w0, -w0, -w0, 0.0, w0, w0, w0]
    assert STN().eval()(weight).flatten().tolist() == pytest.approx(expected)
    assert STN().eval()(weight / 1.2).flatten().tolist() == pytest.approx([-w0, -w0, 0, 0, 0, w0, w0])
