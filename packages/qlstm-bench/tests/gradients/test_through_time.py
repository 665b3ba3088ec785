"""Gradient norms through time, against plain implementations in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qlstm_bench.config import RunConfig
from qlstm_bench.gradients import StateGradientNorms, state_gradient_norms, task_gradient_norms
from qlstm_bench.tasks.char_lm import CharLM
from qlstm_core import GRU, LSTM, RecurrentLayer


def plain_states(layer: LSTM, x: Tensor, h: Tensor, c: Tensor, *, sign: bool) -> list[Tensor]:
    """Return h_1 … h_T of a plain LSTM with the layer's parameters, written out from the equations."""
    weights = [layer.weight_ih_l0, layer.weight_hh_l0]
    w_x, w_h = (torch.where(w < 0, -1.0, 1.0).to(w) if sign else w for w in weights)
    states = []
    for x_t in x:
        i, f, g, o = (x_t @ w_x.T + h @ w_h.T + layer.bias_ih_l0 + layer.bias_hh_l0).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        states.append(h)
    return states


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 5), st.booleans(), st.integers(0, 1000))
def test_norms_equal_plain_autograd(steps: int, batch: int, hidden: int, sign: bool, seed: int) -> None:
    torch.manual_seed(seed)
    layer = LSTM(3, hidden, quantizer="binary-connect" if sign else "none", dtype=torch.float64)
    x = torch.randn(steps, batch, 3, dtype=torch.float64)
    direction = torch.randn(hidden, dtype=torch.float64)
    (measured,) = state_gradient_norms(layer, lambda: (layer(x)[0][-1] @ direction).tanh().sum())

    zeros = torch.zeros(batch, hidden, dtype=torch.float64)
    states = plain_states(layer, x, zeros, zeros, sign=sign)
    gradients = torch.autograd.grad((states[-1] @ direction).tanh().sum(), states)
    expected = [gradient.square().sum().sqrt().item() for gradient in gradients]
    assert (measured.layer, measured.direction) == (0, 0)
    np.testing.assert_allclose(measured.norms, expected, rtol=1e-8, atol=1e-300)
    assert measured.growth == pytest.approx(expected[0] / expected[-1], rel=1e-8)


def test_norms_equal_finite_differences() -> None:
    """∂ξ_T/∂h_t is the total derivative: h_t also acts through all later steps."""
    torch.manual_seed(1)
    layer = LSTM(2, 3, dtype=torch.float64)
    x = torch.randn(5, 1, 2, dtype=torch.float64)
    (measured,) = state_gradient_norms(layer, lambda: layer(x)[0][-1].square().sum())
    delta = 1e-6
    with torch.no_grad():
        for t in range(5):
            _, (h, c) = layer(x[: t + 1])
            slopes = []
            for unit in range(3):
                ends = []
                for sign in (1, -1):
                    moved = h.clone()
                    moved[0, 0, unit] += sign * delta
                    last = moved[0] if t == 4 else layer(x[t + 1 :], (moved, c))[0][-1]
                    ends.append(last.square().sum().item())
                slopes.append((ends[0] - ends[1]) / (2 * delta))
            assert measured.norms[t] == pytest.approx(math.hypot(*slopes), rel=1e-6)


def test_every_layer_and_direction_is_measured() -> None:
    layer = LSTM(3, 4, num_layers=2, bidirectional=True)
    x = torch.randn(6, 2, 3)
    traces = state_gradient_norms(layer, lambda: layer(x)[0].sum())
    assert {(trace.layer, trace.direction) for trace in traces} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert all(len(trace.norms) == 6 and min(trace.norms) > 0 for trace in traces)


def test_states_after_the_loss_have_no_gradient() -> None:
    layer = LSTM(3, 4)
    x = torch.randn(6, 2, 3)
    (trace,) = state_gradient_norms(layer, lambda: layer(x)[0][3].sum())
    assert trace.norms[4:] == (0.0, 0.0)
    assert min(trace.norms[:4]) > 0


def test_overflow_is_infinite_and_not_nan() -> None:
    """Recurrent weights of 1e200 take the gradient out of float64 in two steps; zeros on its way make NaN."""
    torch.manual_seed(0)
    layer = LSTM(2, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_hh_l0.fill_(1e200)
        layer.weight_ih_l0.zero_()
    # With h_0 = 0 and no input every gate is at its steepest, and h stays 0.
    (trace,) = state_gradient_norms(
        layer, lambda: layer(torch.zeros(5, 1, 2, dtype=torch.float64))[0][-1].sum()
    )
    assert trace.norms[-1] == pytest.approx(math.sqrt(3))
    assert trace.norms[-2] == pytest.approx(math.sqrt(3) * 3 * 1e200 / 4, rel=1e-6)
    assert trace.norms[0] == math.inf
    assert trace.growth == math.inf


def test_growth_of_extremes() -> None:
    assert StateGradientNorms(0, 0, (8.0, 4.0, 2.0)).growth == 4
    assert StateGradientNorms(0, 0, (0.0, 2.0)).growth == 0
    assert math.isnan(StateGradientNorms(0, 0, (0.0, 0.0)).growth)


@pytest.mark.parametrize("normalizer", ["none", "batch-shared"])
def test_measuring_leaves_model_and_random_generators_alone(text_file: Path, normalizer: str) -> None:
    config: dict[str, Any] = {"data": str(text_file), "hidden": 4, "batch": 4, "unroll": 20, "steps": 1}
    task = CharLM()
    task.prepare(RunConfig.build({**CharLM.defaults, **config}))
    model = task.model("binary-connect:stochastic=true", normalizer).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    first = task_gradient_norms(task, model, seed=3)
    assert task_gradient_norms(task, model, seed=3) == first
    assert task_gradient_norms(task, model, seed=4) != first  # the copy trains: its quantizer samples
    assert torch.equal(torch.get_rng_state(), generator)
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.dtype == before[name].dtype
    assert len(first[0].norms) == 20


def plain_normalized(name: str, x: Tensor, gain: Tensor, bias: Tensor | float, eps: float) -> Tensor:
    """Return the normalised ``(batch, gates, rows)``, written out."""
    if name == "rms":
        return gain * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    axis = -1 if name == "layer" else 0
    mean = x.mean(axis, keepdim=True)
    variance = (x - mean).square().mean(axis, keepdim=True)
    return gain * (x - mean) / (variance + eps).sqrt() + bias


@pytest.mark.parametrize("cell", [LSTM, GRU])
@pytest.mark.parametrize("normalizer", ["none", "weight", "layer", "batch-shared", "rms"])
@pytest.mark.parametrize("quantizer", ["none", "binary-connect", "twn"])
def test_norms_of_normalised_cells_equal_plain_autograd(
    cell: type[RecurrentLayer], normalizer: str, quantizer: str
) -> None:
    """Both states, of layers that train on the fused route or torch's own operator."""
    torch.manual_seed(0)
    layer = cell(3, 5, quantizer=quantizer, normalizer=normalizer, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(9, 4, 3, dtype=torch.float64)
    assert layer.routes()[0].kind != "loop"
    (measured,) = state_gradient_norms(layer, lambda: layer(x)[0][-1].sin().sum())

    gates = len(layer.cell.gates)
    weights = {key: weight.detach() for key, weight in layer.quantized_weights().items()}
    biases = {key: torch.zeros(gates, 5, dtype=torch.float64) for key in ("ih", "hh")}
    for key in biases:
        if f"bias_{key}_l0" in dict(layer.named_parameters()):
            biases[key] = layer.get_parameter(f"bias_{key}_l0").detach().view(gates, 5)

    def side(key: str, value: Tensor) -> Tensor:
        weight, norm = weights[key], dict(layer.normalizers.items()).get(f"{key}_l0")
        if normalizer == "weight":
            lengths = weight.norm(dim=-1, keepdim=True).clamp(min=1e-12)  # rows of zeros stay
            weight = norm.gain.detach().unsqueeze(-1) * weight / lengths
        product = torch.einsum("grc,bc->bgr", weight, value)
        if normalizer in ("layer", "batch-shared", "rms"):
            shift = 0.0 if norm.bias is None else norm.bias.detach()
            product = plain_normalized(normalizer, product, norm.gain.detach(), shift, norm.eps)
        return product + biases[key]

    h = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
    c = torch.zeros_like(h)
    states: list[Tensor] = []
    cells: list[Tensor] = []
    for x_t in x:
        a, b = side("ih", x_t), side("hh", h)
        if cell is LSTM:
            i, f, g, o = (a + b).unbind(1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            cells.append(c)
        else:
            r, z = torch.sigmoid(a[:, :2] + b[:, :2]).unbind(1)
            h = (1 - z) * torch.tanh(a[:, 2] + r * b[:, 2]) + z * h
        states.append(h)
    loss = states[-1].sin().sum()
    for found, wanted in ((measured.norms, states), (measured.cell_norms, cells)):
        gradients = torch.autograd.grad(loss, wanted, retain_graph=True) if wanted else ()
        expected = [gradient.square().sum().sqrt().item() for gradient in gradients]
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-300)
    assert len(measured.cell_norms) == len(cells)
