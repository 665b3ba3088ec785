"""Every figure of the analysis as a value: coefficients in closed form, and states where bounds are reached.

That a bound holds does not show that its terms are right: a larger one holds as well.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from qlstm_bench.config import RunConfig
from qlstm_bench.gradients import LayerAnalysis, analyze, state_gradient_norms, task_gradient_norms
from qlstm_bench.gradients.jacobian import bounded_stretch, state_stretch
from qlstm_bench.gradients.spectral import smallest_level, sparsity
from qlstm_bench.tasks.char_lm import CharLM
from qlstm_bench.tasks.streams import segment
from qlstm_core import GRU, LSTM

STEPS, BATCH = 6, 3
LARGE = 1e6
"""A weight beside which a bound's 1 is nothing."""


def norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix.detach(), ord=2))


def analysis_of(layer: LSTM | GRU, state: Any = None) -> LayerAnalysis:
    torch.manual_seed(3)
    x = torch.randn(STEPS, BATCH, layer.input_size, dtype=torch.float64)
    (analysis,) = analyze(layer, lambda: layer(x, state)[0][-1].square().sum())
    return analysis


def assert_values(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


def random_gru() -> GRU:
    torch.manual_seed(0)
    layer = GRU(3, 4, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(
            torch.randn(12, 4) * torch.tensor([1.0, 2.0, 3.0]).repeat_interleave(4)[:, None]
        )
        layer.bias_hh_l0.normal_()
    return layer


def test_coefficients_of_a_gru() -> None:
    """``λ1 = 1 + γ_q/4 ‖W_hr‖ + (1 + γ)/4 ‖W_hz‖ + ‖W_hn‖``."""
    layer = random_gru()
    analysis = analysis_of(layer, 2 * torch.randn(1, BATCH, 4, dtype=torch.float64))
    h = torch.stack([analysis.gradients.trace.initial[0], *analysis.gradients.trace.h[:-1]]).detach()
    w_r, w_z, w_n = layer.weight_hh_l0.detach().chunk(3)
    gamma = h.abs().amax(-1)
    parted = (h @ w_n.T + layer.bias_hh_l0.detach()[8:]).abs().amax(-1)
    assert gamma.max() > 1.5, "γ and 1 are apart"
    assert analysis.lambdas is not None
    expected = 1 + parted / 4 * norm(w_r) + (1 + gamma) / 4 * norm(w_z) + norm(w_n)
    assert_values(analysis.lambdas.lambda1, expected)
    assert_values(analysis.lambdas.gamma, gamma)


@pytest.mark.parametrize("gate", ["r", "z", "n"])
def test_each_term_of_a_grus_bound_is_reached(gate: str) -> None:
    """One unit and one large recurrent weight: all that passes back is that gate's term."""
    layer = GRU(1, 1, dtype=torch.float64)
    h, parted = 0.75, 8.0
    opened, closed = 40.0, -40.0
    # Biases r, z and n of the input's side at which the gate's slope is the steepest; the weight meets h = 0,
    # or is met by the bias.
    weights, biases, start = {
        "r": ([LARGE, 0.0, 0.0], [0.0, closed, -parted / 2], 0.0),
        "z": ([0.0, LARGE, 0.0], [closed, -LARGE * h, closed], h),
        "n": ([0.0, 0.0, LARGE], [opened, closed, 0.0], 0.0),
    }[gate]
    with torch.no_grad():
        layer.weight_ih_l0.zero_()
        layer.weight_hh_l0.copy_(torch.tensor(weights).unsqueeze(1))
        layer.bias_ih_l0.copy_(torch.tensor(biases))
        layer.bias_hh_l0.copy_(torch.tensor([0.0, 0.0, parted if gate == "r" else 0.0]))
    state = torch.full((1, 1, 1), start, dtype=torch.float64)
    x = torch.zeros(1, 1, 1, dtype=torch.float64)
    (analysis,) = analyze(layer, lambda: layer(x, state)[0].sum())
    assert analysis.bounds is not None
    ratio = analysis.bounds.left / analysis.bounds.proposition.right
    assert ratio.item() == pytest.approx(1, abs=1e-5)
    assert (analysis.bounds.measured.right / analysis.bounds.left).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("gate", ["i", "f", "g", "o"])
def test_each_term_of_an_lstms_bound_is_reached(gate: str) -> None:
    """As for the GRU; o's with a cell state so large that tanh has come to 1."""
    layer = LSTM(1, 1, dtype=torch.float64)
    opened, closed = 40.0, -40.0
    biases, cell = {
        "i": ([0.0, closed, opened, opened], 0.0),  # c = i·g: ∂c/∂r_i = ¼; its tanh is not 0: see below
        "f": ([closed, 0.0, 0.0, opened], 1e-4),
        "g": ([opened, closed, 0.0, opened], 0.0),
        "o": ([closed, opened, 0.0, 0.0], 30.0),
    }[gate]
    with torch.no_grad():
        layer.weight_ih_l0.zero_()
        layer.weight_hh_l0.zero_()
        layer.weight_hh_l0["ifgo".index(gate)] = LARGE
        layer.bias_ih_l0.copy_(torch.tensor(biases))
        layer.bias_hh_l0.zero_()
    state = (torch.zeros(1, 1, 1, dtype=torch.float64), torch.full((1, 1, 1), cell, dtype=torch.float64))
    x = torch.zeros(1, 1, 1, dtype=torch.float64)
    (analysis,) = analyze(layer, lambda: layer(x, state)[0].sum())
    assert analysis.bounds is not None
    # With i = ½ and g = 1 the cell is ½, where the emitted state's slope is 1 − tanh²(½) and not 1.
    reached = 1 - math.tanh(0.5) ** 2 if gate == "i" else 1.0
    ratio = analysis.bounds.left / analysis.bounds.proposition.right
    assert ratio.item() == pytest.approx(reached, rel=1e-5)
    assert (analysis.bounds.measured.right / analysis.bounds.left).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("normalizer", ["none", "layer:cell=true"])
def test_coefficients_of_a_projected_lstm(normalizer: str) -> None:
    """``λ2 = ¼a_i + γ/4 a_f + a_g``, ``λ1 = p(κ λ2 + ¼ a_o)``, and what of ∂ξ/∂h reaches c."""
    torch.manual_seed(0)
    layer = LSTM(3, 4, proj_size=2, normalizer=normalizer, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_hr_l0.mul_(7)
        layer.weight_hh_l0.mul_(torch.tensor([1.0, 2.0, 3.0, 4.0]).repeat_interleave(4)[:, None])
        for number, module in enumerate(layer.normalizers.values()):
            module.gain.copy_(torch.randn(module.gain.shape, dtype=torch.float64) * (number + 1))
    analysis = analysis_of(layer)
    bounds, trace = analysis.bounds, analysis.gradients.trace
    assert bounds is not None
    p = norm(layer.weight_hr_l0)
    assert p > 2
    h = torch.stack([trace.initial[0], *trace.h[:-1]]).detach()
    c = torch.stack([trace.initial[1], *trace.c]).detach()
    gamma = c[:-1].abs().amax(-1)
    weight = layer.weight_hh_l0.detach().view(4, 4, 2)
    acting = torch.stack([torch.full((STEPS, BATCH), norm(w), dtype=torch.float64) for w in weight])
    kappa = torch.ones(STEPS, BATCH, dtype=torch.float64)
    emitted, slope = c[1:], torch.ones(())
    if normalizer != "none":
        norm_hh, norm_cell = layer.normalizers["hh_l0"], layer.normalizers["cell_l0"]
        products = torch.einsum("tbk,gjk->gtbj", h, weight)
        sigma = (products.var(-1, correction=0) + norm_hh.eps).sqrt()
        acting = acting * norm_hh.gain.detach().abs().amax(-1)[:, None, None] / sigma
        deviation = (c[1:].var(-1, correction=0) + norm_cell.eps).sqrt()
        kappa = norm_cell.gain.detach().abs().max() / deviation
        emitted = norm_cell.gain.detach() * (c[1:] - c[1:].mean(-1, keepdim=True)) / deviation[..., None]
        emitted = emitted + norm_cell.bias.detach() if norm_cell.bias is not None else emitted
    lambda2 = acting[0] / 4 + gamma / 4 * acting[1] + acting[2]
    assert_values(bounds.lambdas.lambda2, lambda2)
    assert_values(bounds.lambdas.lambda1, p * (kappa * lambda2 + acting[3] / 4))
    o = (torch.stack(trace.x) + torch.stack(trace.r)).detach()[:, :, 3].sigmoid()
    slope = (o * (1 - emitted.tanh() ** 2)).amax(-1)
    assert_values(bounds.through_output, p * kappa * slope)


def test_what_the_bound_lets_through_a_projection_is_reached() -> None:
    """``∂h_T/∂h_t`` of a unit whose cell only keeps: the projection's norm counts at every way out of it."""
    layer = LSTM(1, 2, proj_size=1, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.weight_hh_l0[4] = 0.5  # g of unit 0
        layer.weight_hr_l0[0, 0] = 5.0
        layer.bias_ih_l0.copy_(torch.tensor([40.0, 40, 40, 40, 0, 0, 40, 40]))  # i, f, o open, c stays 0
    x = torch.zeros(3, 1, 1, dtype=torch.float64)
    (analysis,) = analyze(layer, lambda: layer(x)[0][-1].sum())
    assert analysis.bounds is not None
    assert analysis.unrolled is not None
    exact = state_stretch(analysis.unrolled).log_norms
    # c_{t+1} = c_t + ½ h_t, h_t = 5 c_t: from h_2, h_1 and h_0 to h_3 the factors are 2.5, 2.5·3.5, 2.5·3.5².
    expected = torch.tensor([2.5 * 3.5**2, 2.5 * 3.5, 2.5], dtype=torch.float64).log10().unsqueeze(1)
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-9)
    for inequality in (analysis.bounds.measured, analysis.bounds.proposition):
        allowed = bounded_stretch(analysis.bounds, inequality)
        torch.testing.assert_close(allowed, expected, rtol=0, atol=1e-6)


def test_sigma_gain_and_stretch_of_a_known_network() -> None:
    """σ is a standard deviation with ε in it, a median over steps, sequences and units."""
    torch.manual_seed(0)
    layer = LSTM(3, 4, normalizer="layer", dtype=torch.float64)
    norm_hh = layer.normalizers["hh_l0"]
    with torch.no_grad():
        layer.weight_hh_l0.mul_(5)
        norm_hh.gain.copy_(torch.randn(4, 4))
    analysis = analysis_of(layer, (torch.randn(1, BATCH, 4).double(), torch.randn(1, BATCH, 4).double()))
    trace = analysis.gradients.trace
    h = torch.stack([trace.initial[0], *trace.h[:-1]]).detach()
    weight, gain = layer.weight_hh_l0.detach().view(4, 4, 4), norm_hh.gain.detach()
    for k, gate in enumerate(analysis.summary().gates):
        products = h @ weight[k].T
        sigma = (products.var(-1, correction=0) + norm_hh.eps).sqrt()
        assert gate.sigma == pytest.approx(sigma.flatten().median().item())
        assert gate.gain == pytest.approx(gain[k].abs().mean().item())
        stretch = (gain[k].abs().max() / sigma).amax(1).median().item()
        assert gate.stretch == pytest.approx(stretch)


def test_summary_of_a_layer_made_by_hand() -> None:
    """λ1 of full precision is of W, of quantized weights of Q(W); medians over the steps but the first."""
    torch.manual_seed(0)
    layer = LSTM(3, 4, quantizer="bwn", dtype=torch.float64)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(torch.diag(torch.tensor([8.0, 1.0, 1.0, 1.0])).repeat(4, 1))
        layer.weight_hh_l0[4:8] *= 3
    analysis = analysis_of(layer)
    summary = analysis.summary()
    bounds = summary.bounds
    assert bounds is not None
    c = torch.stack([t.detach() for t in analysis.gradients.trace.c])
    gamma = c[:-1].abs().amax(-1).amax(1)
    full, quantized = (
        torch.tensor([getattr(gate, kind) for gate in summary.gates]) for kind in ("full", "quantized")
    )
    # bwn: mean |w| is 11/16 of the sign, +1 for zeros: matrices of ones, whose norm is 4.
    assert full.tolist() == pytest.approx([8, 24, 8, 8], rel=1e-5)
    assert quantized.tolist() == pytest.approx([2.75, 8.25, 2.75, 2.75], rel=1e-5)
    for norms, found in ((full, bounds.full_lambda1), (quantized, bounds.quantized_lambda1)):
        i, f, g, o = norms.double()
        expected = (i / 4 + gamma / 4 * f + g + o / 4).median().item()
        assert found == pytest.approx(expected, rel=1e-5)
    assert bounds.gamma == pytest.approx(gamma.median().item())
    assert bounds.lambda1 == pytest.approx(bounds.quantized_lambda1)
    assert analysis.bounds is not None
    left = analysis.bounds.left[1:].norm(dim=1)
    dh = torch.stack(analysis.gradients.h)[1:].flatten(1).norm(dim=1)
    dc = torch.stack([*analysis.gradients.c[2:], torch.zeros(BATCH, 4)]).flatten(1).norm(dim=1)
    i, f, g, o = quantized.double()
    lambda2 = i / 4 + gamma / 4 * f + g
    right = (lambda2 + o / 4) * dh + lambda2 * dc
    assert bounds.tightness == pytest.approx((right / left).log10().median().item(), rel=1e-4)
    assert bounds.lambda2 == pytest.approx(lambda2.median().item(), rel=1e-5)
    assert bounds.largest_lambda1 == pytest.approx((lambda2 + o / 4).max().item(), rel=1e-5)


def test_levels_and_their_share() -> None:
    matrices = torch.tensor([[[0.0, 0.5], [-2.0, 0.5]], [[0.0, 0.0], [0.0, 0.0]]])
    assert sparsity(matrices).tolist() == [0.25, 1.0]
    assert smallest_level(matrices).tolist() == [0.5, 0.0]


def test_a_text_tasks_measured_loss_is_that_of_the_last_step(text_file: Path) -> None:
    """‖∂ξ/∂h_t‖ of the task against autograd of that loss through the model."""
    settings: dict[str, Any] = {"data": str(text_file), "hidden": 4, "batch": 4, "unroll": 12, "steps": 1}
    task = CharLM()
    task.prepare(RunConfig.build({**CharLM.defaults, **settings}))
    torch.manual_seed(0)
    model = task.model("bwn", "layer").double().train()
    symbols, following = segment(task._evaluation_streams("valid"), 0, 12)
    assert symbols.shape == (12, 4)
    (expected,) = state_gradient_norms(
        model.recurrent, lambda: cross_entropy(model(symbols)[0][-1], following[-1])
    )
    (found,) = task_gradient_norms(task, model, seed=0)
    assert found.norms == pytest.approx(expected.norms, rel=1e-9)
    assert found.cell_norms == pytest.approx(expected.cell_norms, rel=1e-9)
    assert found.norms[-1] > 1e-3


def test_a_text_tasks_gradients_are_measured_in_training_mode(text_file: Path) -> None:
    """A stochastic quantizer samples: another seed, other gradients; the same, the same."""
    settings: dict[str, Any] = {"data": str(text_file), "hidden": 4, "batch": 4, "unroll": 12, "steps": 1}
    task = CharLM()
    task.prepare(RunConfig.build({**CharLM.defaults, **settings}))
    model = task.model("binary-connect:stochastic=true", "layer").eval()
    first, again, other = (task_gradient_norms(task, model, seed)[0].norms for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_measured_bound_of_a_gru_counts_what_the_update_gate_keeps() -> None:
    """With W_h = 0 all that passes is z, one half here, where the proposition has 1."""
    layer = GRU(1, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    x = torch.zeros(3, 1, 1, dtype=torch.float64)
    (analysis,) = analyze(layer, lambda: layer(x)[0].sum())
    assert analysis.bounds is not None
    assert_values(analysis.bounds.measured.right, analysis.bounds.dh / 2)
    assert_values(analysis.bounds.left, analysis.bounds.dh / 2)
    assert_values(analysis.bounds.proposition.right, analysis.bounds.dh)
