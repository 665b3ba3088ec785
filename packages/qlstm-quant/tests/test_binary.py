"""Binary methods against their papers, by closed form, by trying every code, and by counting draws."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor
from weight_cases import as_numpy, weights

from qlstm_quant import BWN, SBN, BinaryConnect

DRAWS = 20_000


@given(weights())
def test_binary_connect_is_the_sign_and_plus_one_at_zero(weight: Tensor) -> None:
    expected = [[[-1.0 if w < 0 else 1.0 for w in row] for row in gate] for gate in weight.tolist()]
    assert BinaryConnect()(weight).tolist() == expected


@given(weights())
def test_bwn_is_the_sign_times_the_mean_magnitude(weight: Tensor) -> None:
    w = as_numpy(weight)
    signs = np.where(w < 0, -1, 1)
    smallest = torch.finfo(torch.float32).tiny
    per_gate = np.maximum(np.abs(w).mean((1, 2), keepdims=True), smallest)
    per_row = np.maximum(np.abs(w).mean(2, keepdims=True), smallest)
    np.testing.assert_allclose(as_numpy(BWN()(weight)), signs * per_gate, rtol=1e-6)
    np.testing.assert_allclose(as_numpy(BWN(per_row=True)(weight)), signs * per_row, rtol=1e-6)


@given(weights(largest=3, dtype=torch.float64))
def test_no_scaled_signs_are_nearer_than_those_of_bwn(weight: Tensor) -> None:
    """Every sign pattern with its own least-squares scale, b·w / b·b."""
    ours = as_numpy(BWN()(weight))
    for gate, quantized in zip(as_numpy(weight), ours, strict=True):
        w = gate.ravel()
        codes = np.array(list(product((-1.0, 1.0), repeat=w.size)))
        scales = codes @ w / w.size
        errors = ((w - scales[:, None] * codes) ** 2).sum(1)
        assert ((gate - quantized) ** 2).sum() <= errors.min() + 1e-12 * (w**2).sum()


def draw(quantizer: torch.nn.Module, row: list[float]) -> np.ndarray:  # type: ignore[type-arg]
    """Quantize ``row`` many times at once: one gate of DRAWS equal rows."""
    torch.manual_seed(0)
    weight = torch.tensor(row).expand(1, DRAWS, len(row))
    return as_numpy(quantizer(weight))[0]


def assert_moments(samples: np.ndarray, mean: np.ndarray, variance: np.ndarray, scale: float) -> None:  # type: ignore[type-arg]
    """Mean within five standard errors, variance within what a mean so far off would make of it."""
    deviation = 5 * np.sqrt(variance / DRAWS)
    assert (np.abs(samples.mean(0) - mean) <= deviation + 1e-6 * scale).all()
    # The second moment of ±s is s² exactly, so the variance follows from the mean.
    slack = 2 * np.abs(mean) * deviation + deviation**2 + 1e-6 * scale**2
    assert (np.abs(samples.var(0) - variance) <= slack).all()


def test_stochastic_binary_connect_has_mean_w_and_variance_one_minus_w_squared() -> None:
    row = [-2.0, -1.0, -0.7, -0.01, 0.0, 0.2, 0.5, 0.99, 1.0, 3.0]
    samples = draw(BinaryConnect(stochastic=True), row)
    clipped = np.clip(row, -1, 1)
    assert set(np.unique(samples)) == {-1.0, 1.0}
    assert_moments(samples, clipped, 1 - clipped**2, 1.0)


def test_stochastic_binary_connect_draws_each_weight_for_itself() -> None:
    samples = draw(BinaryConnect(stochastic=True), [0.0, 0.0, 0.5])
    correlation = np.corrcoef(samples.T) - np.eye(3)
    assert np.abs(correlation).max() < 5 / np.sqrt(DRAWS)


@pytest.mark.parametrize(
    ("gates", "rows", "cols", "w0"),
    # √(6/(50 + 2048))/2, √(6/(512 + 2048))/2 and, for a GRU, √(6/(10 + 60))/2, by hand.
    [(4, 512, 50, 0.0267389), (4, 512, 512, 0.0242061), (3, 20, 10, 0.1463850)],
)
def test_sbn_has_the_fixed_scale_of_the_paper(gates: int, rows: int, cols: int, w0: float) -> None:
    quantized = SBN()(torch.randn(gates, rows, cols, generator=torch.Generator().manual_seed(0)))
    assert quantized.abs().unique().tolist() == pytest.approx([w0], abs=1e-7)


def test_sbn_has_mean_w_and_variance_w0_squared_minus_w_squared() -> None:
    w0 = float(np.sqrt(6 / (5 + DRAWS)) / 2)
    row = [-4 * w0, -0.5 * w0, 0.0, 0.9 * w0, w0]
    samples = draw(SBN(), row)
    clipped = np.clip(row, -w0, w0)
    assert np.unique(samples) == pytest.approx([-w0, w0])
    assert_moments(samples, clipped, w0**2 - clipped**2, w0)


def test_the_more_probable_value_in_eval() -> None:
    weight = torch.tensor([[[-0.3, -0.0, 0.0, 1e-30, 0.2]]])
    signs = [-1.0, 1.0, 1.0, 1.0, 1.0]
    assert BinaryConnect(stochastic=True).eval()(weight).tolist() == [[signs]]
    w0 = 0.5  # 5 columns + 1 row: √(6/6)/2
    assert SBN().eval()(weight).tolist() == [[[w0 * sign for sign in signs]]]


def test_half_precision_draws_are_not_coarse() -> None:
    """Thresholds rounded to bfloat16 would put the mean at −0.001 instead of 2⁻⁹."""
    torch.manual_seed(0)
    weight = torch.full((1, 2000, 2000), 2.0**-9, dtype=torch.bfloat16)
    mean = BinaryConnect(stochastic=True)(weight).double().mean().item()
    assert mean == pytest.approx(2.0**-9, abs=5 / 2000)
