"""Exact Jacobians, against torch.autograd on the layer itself."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from qlstm_bench.gradients import GradientAnalysisError, LayerAnalysis, analyze
from qlstm_bench.gradients.jacobian import bounded_stretch, state_stretch, step_jacobians
from qlstm_core import GRU, LSTM, GroupedLSTM, RecurrentLayer
from qlstm_core.layers.sequence import run_step

LAYERS: dict[str, tuple[type[RecurrentLayer], dict[str, Any]]] = {
    "none": (LSTM, {}),
    "projection": (LSTM, {"proj_size": 2}),
    "weight": (LSTM, {"normalizer": "weight", "quantizer": "bwn"}),
    "layer, cell": (LSTM, {"normalizer": "layer:cell=true", "quantizer": "binary-connect"}),
    "batch, cell": (LSTM, {"normalizer": "batch-shared:cell=true"}),
    "groups": (GroupedLSTM, {"groups": 2, "normalizer": "layer:cell=true"}),
    "GRU": (GRU, {}),
    "GRU, RMS": (GRU, {"normalizer": "rms"}),
    "GRU, batch": (GRU, {"normalizer": "batch-separate"}),
}


def measured(title: str) -> tuple[RecurrentLayer, LayerAnalysis]:
    torch.manual_seed(0)
    cell, options = LAYERS[title]
    layer = cell(4, 4, dtype=torch.float64, **options)
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    (analysis,) = analyze(layer, lambda: layer(x)[0][-1].square().sum())
    return layer, analysis


@pytest.mark.parametrize("title", list(LAYERS))
def test_equal_autograd_of_the_layer(title: str) -> None:
    """Steps one by one, and ∂h_T/∂h_t of all steps together."""
    layer, analysis = measured(title)
    u = analysis.unrolled
    assert u is not None
    jacobians = step_jacobians(u)

    def states(k: int) -> tuple[Tensor, ...]:
        return (u.h_before[k], u.c_before[k]) if layer.cell.states == ("h", "c") else (u.h_before[k],)

    def run(k: int, *state: Tensor) -> tuple[Tensor, ...]:
        for later in range(k, 5):
            state, _ = run_step(u.prepared, u.x[later], state, later)
        return state

    def blocks(jacobian: Tensor) -> Tensor:
        """Return ``(B, S, B, S)`` of all sequences as that of each, or of the whole batch."""
        if u.couples:
            return jacobian.flatten(2).flatten(0, 1).unsqueeze(0)
        return torch.stack([jacobian[b, :, b] for b in range(3)])

    for k in range(5):
        by_state = torch.autograd.functional.jacobian(
            lambda *state, k=k: torch.cat(run_step(u.prepared, u.x[k], state, k)[0], -1), states(k)
        )
        torch.testing.assert_close(jacobians[k], blocks(torch.cat(by_state, -1)), rtol=1e-9, atol=1e-12)
    stretch = state_stretch(u)
    for t in (0, 3):
        of_h = torch.autograd.functional.jacobian(lambda *state, t=t: run(t, *state)[0], states(t))[0]
        expected = torch.linalg.matrix_norm(blocks(of_h), ord=2).log10()
        torch.testing.assert_close(stretch.log_norms[t], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("title", list(LAYERS))
def test_bounds_allow_what_happens(title: str) -> None:
    _, analysis = measured(title)
    bounds = analysis.bounds
    assert bounds is not None
    assert analysis.unrolled is not None
    exact = state_stretch(analysis.unrolled).log_norms
    tight, loose = (bounded_stretch(bounds, i) for i in (bounds.measured, bounds.proposition))
    assert bool((exact <= tight + 1e-6).all())
    assert bool((tight <= loose + 1e-9).all())


def test_lyapunov_exponent_of_a_known_system() -> None:
    """With i, f, o open and W_hg = ½, c_{t+1} = c_t + ½ h_t and h_t = c_t around 0: exponent ln 1.5."""
    layer = LSTM(1, 1, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_ih_l0.zero_()
        layer.weight_hh_l0.copy_(torch.tensor([[0.0], [0.0], [0.5], [0.0]]))
        layer.bias_hh_l0.zero_()
        layer.bias_ih_l0.copy_(torch.tensor([40.0, 40.0, 0.0, 40.0]))
    x = torch.zeros(2000, 1, 1, dtype=torch.float64)  # 1.5²⁰⁰⁰ is 1e352, beyond float64
    (analysis,) = analyze(layer, lambda: layer(x)[0][-1].sum())
    assert analysis.unrolled is not None
    stretch = state_stretch(analysis.unrolled)
    assert stretch.exponent.item() == pytest.approx(math.log(1.5), rel=1e-3)
    assert stretch.log_norms[0, 0].item() == pytest.approx(math.log10(0.5) + 1999 * math.log10(1.5), rel=1e-9)


def test_large_networks_are_refused() -> None:
    layer = LSTM(2, 300)
    x = torch.randn(2, 2, 2)
    (analysis,) = analyze(layer, lambda: layer(x)[0][-1].sum())
    assert analysis.unrolled is not None
    with pytest.raises(GradientAnalysisError, match="at most 512 elements, got 600"):
        state_stretch(analysis.unrolled)
