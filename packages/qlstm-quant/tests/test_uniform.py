"""Uniform grids and LSQ against their papers' formulas and gradients, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from weight_cases import as_numpy, weights

from qlstm_quant import LSQ, Uniform


@given(weights(), st.integers(2, 8), st.booleans())
def test_uniform_rounds_to_a_grid_that_spans_the_weights(weight: Tensor, bits: int, per_row: bool) -> None:
    w = as_numpy(weight)
    largest = 2 ** (bits - 1) - 1
    step = np.abs(w).max(2 if per_row else (1, 2), keepdims=True) / largest
    ratio = w / np.where(step > 0, step, 1)
    assume((np.abs(ratio % 1 - 0.5) > 1e-4).all())
    quantized = as_numpy(Uniform(bits, per_row)(weight))
    np.testing.assert_allclose(quantized, step * np.round(ratio), rtol=1e-6, atol=1e-30)


@given(weights(dtype=torch.float64), st.integers(2, 8))
def test_uniform_error_is_at_most_half_a_step(weight: Tensor, bits: int) -> None:
    step = weight.abs().amax((1, 2), keepdim=True) / (2 ** (bits - 1) - 1)
    assert ((weight - Uniform(bits)(weight)).abs() <= step / 2 * (1 + 1e-9)).all()


def test_lsq_starts_with_the_step_of_the_paper() -> None:
    weight = torch.tensor([[[1.0, -3.0], [0.5, 1.5]], [[0.0, 0.0], [0.2, -0.2]]])
    quantizer = LSQ(bits=3)  # Q = 3
    quantizer.prepare(weight)
    assert quantizer.step.flatten().tolist() == pytest.approx(
        [2 * 1.5 / math.sqrt(3), 2 * 0.1 / math.sqrt(3)]
    )
    rows = LSQ(bits=3, per_row=True)
    rows.prepare(weight)
    expected = [2 * mean / math.sqrt(3) for mean in (2.0, 1.0, 0.0, 0.2)]
    assert rows.step.flatten().tolist() == pytest.approx(expected)
    assert [name for name, _ in rows.named_parameters()] == ["step"]


def lsq_of_the_paper(weight: Tensor, step: Tensor, bits: int, shared: int) -> Tensor:
    """The pseudo-code of the paper's appendix: straight-through rounding, a scaled gradient for the step."""
    largest = 2 ** (bits - 1) - 1
    gradient_scale = 1 / math.sqrt(shared * largest)
    step = (step - step * gradient_scale).detach() + step * gradient_scale
    ratio = (weight / step.unsqueeze(-1)).clamp(-largest, largest)
    rounded = (ratio.round() - ratio).detach() + ratio
    return rounded * step.unsqueeze(-1)


@settings(max_examples=60)
@given(weights(dtype=torch.float64), st.integers(2, 6), st.booleans(), st.floats(0.05, 4.0))
def test_lsq_has_the_values_and_gradients_of_the_paper(
    weight: Tensor, bits: int, per_row: bool, stretch: float
) -> None:
    quantizer = LSQ(bits, per_row)
    quantizer.prepare(weight)
    assert quantizer.step is not None
    with torch.no_grad():
        quantizer.step.mul_(stretch).clamp_(min=1e-3)
    ours, theirs = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    their_step = quantizer.step.detach().clone().requires_grad_()
    shared = weight.shape[2] if per_row else weight[0].numel()
    upstream = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    mine = quantizer(ours)
    reference = lsq_of_the_paper(theirs, their_step, bits, shared)
    torch.testing.assert_close(mine, reference)
    mine.backward(upstream)
    reference.backward(upstream)
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(quantizer.step.grad, their_step.grad, rtol=1e-6, atol=1e-9)


def test_lsq_learns_a_step_with_less_error() -> None:
    weight = torch.randn(2, 30, 30, generator=torch.Generator().manual_seed(0))
    quantizer = LSQ(bits=3)
    quantizer.prepare(weight)
    assert quantizer.step is not None
    with torch.no_grad():
        quantizer.step.mul_(4)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.05)
    errors = []
    for _ in range(150):
        error = ((quantizer(weight) - weight) ** 2).sum()
        errors.append(error.item())
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    w = as_numpy(weight)
    least = min(((w - s * np.clip(np.round(w / s), -3, 3)) ** 2).sum() for s in np.linspace(0.1, 2, 200))
    assert errors[-1] < 1.1 * least < 0.2 * errors[0]


def test_lsq_keeps_a_positive_step_whatever_training_does_to_it() -> None:
    weight = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    quantizer = LSQ(bits=2)
    quantizer.prepare(weight)
    assert quantizer.step is not None
    with torch.no_grad():
        quantizer.step.fill_(-0.5)
    quantized = quantizer(weight)
    assert torch.equal(torch.sign(quantized), torch.sign(weight))
    assert quantized.abs().unique().tolist() == [torch.finfo(torch.float32).tiny]


def test_lsq_says_when_it_is_not_prepared_or_prepared_for_another_weight() -> None:
    with pytest.raises(RuntimeError, match=r"lsq: call prepare\(weight\) first"):
        LSQ()(torch.randn(4, 3, 2))
    quantizer = LSQ(per_row=True)
    quantizer.prepare(torch.randn(4, 3, 2))
    with pytest.raises(
        ValueError, match=r"prepared for steps of shape \(4, 3\), but this weight needs \(4, 5\)"
    ):
        quantizer(torch.randn(4, 5, 2))


def test_learned_step_on_the_bound_is_outside() -> None:
    """At |w/s| = Q exactly no gradient reaches the weight, and the step has ±Q; all numbers are exact."""
    quantizer = LSQ(bits=3)  # Q = 3
    weight = torch.tensor([[[0.75, -0.75, 0.5, 1.0]]], requires_grad=True)
    quantizer.prepare(weight)
    quantizer.step.data.fill_(0.25)
    quantizer(weight).backward(torch.tensor([[[1.0, 10.0, 100.0, 1000.0]]]))
    assert weight.grad.tolist() == [[[0.0, 0.0, 100.0, 0.0]]]
    torch.testing.assert_close(quantizer.step.grad, torch.tensor([[3 * (1 - 10 + 1000) / 12**0.5]]))
