"""The bounds on one step back through time: as printed in the paper, where they hold, and in general."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from qlstm_bench.gradients import LayerAnalysis, analyze
from qlstm_core import GRU, LSTM, RecurrentLayer

CASES = 500
QUANTIZERS = ("none", "binary-connect", "ter-connect", "bwn", "twn", "alternating:bits=2", "uniform:bits=4")
NORMALIZERS = {1: ("none",), 2: ("weight",), 3: ("layer",), 4: ("batch-shared", "batch-separate")}
ROUNDING = 1 + 1e-9


def random_layer(
    seed: int, proposition: int, cell: type[RecurrentLayer] = LSTM, **options: Any
) -> RecurrentLayer:
    """Return a network in float64 with weights, gains and biases of random size."""
    torch.manual_seed(seed)
    pick = torch.Generator().manual_seed(seed)

    def choose(items: tuple[str, ...]) -> str:
        return items[int(torch.randint(len(items), (), generator=pick))]

    normalizer = options.pop("normalizer", choose(NORMALIZERS[proposition]))
    hidden = 1 + int(torch.randint(6, (), generator=pick))
    layer = cell(
        3, hidden, quantizer=choose(QUANTIZERS), normalizer=normalizer, dtype=torch.float64, **options
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(4 * torch.rand(()))
            parameter.add_(torch.randn_like(parameter) * torch.rand(()))
    return layer


def set_gains(layer: RecurrentLayer, *, positive: bool) -> None:
    with torch.no_grad():
        for norm in layer.normalizers.values():
            norm.gain.copy_(2 * torch.randn_like(norm.gain))
            if positive:
                norm.gain.abs_().add_(1e-3)


def measure(layer: RecurrentLayer, seed: int, state_size: float = 1.0) -> list[LayerAnalysis]:
    """Return the analysis of a random batch, from a random state, with a loss that reads the last output."""
    torch.manual_seed(seed)
    steps, batch = 4, 3
    x = 2 * torch.randn(steps, batch, 3, dtype=torch.float64)
    cells = layer.num_layers * layer.num_directions
    state = [
        state_size * torch.randn(cells, batch, size, dtype=torch.float64)
        for size in (layer.output_size, layer.hidden_size)[: len(layer.cell.states)]
    ]
    target = torch.randn(layer.output_size * layer.num_directions, dtype=torch.float64)
    hx = tuple(state) if len(state) > 1 else state[0]
    return analyze(layer, lambda: (layer(x, hx)[0][-1] @ target).tanh().sum())


def printed_sides(layer: LSTM, proposition: int, analysis: LayerAnalysis) -> tuple[Tensor, Tensor]:
    """Return both sides of a proposition exactly as the paper prints it, from nothing but its definitions.

    Of steps t = 2 … T: the gradient of the initial state is not looked at.
    """
    trace, gradients = analysis.gradients.trace, analysis.gradients
    weight = layer.quantized_weights()["hh"].detach()
    h = torch.stack([t.detach() for t in trace.h])
    c = torch.stack([t.detach() for t in trace.c])
    dh, dc = torch.stack(gradients.h), torch.stack(gradients.c)
    after = torch.cat([dc[2:], torch.zeros_like(dc[:1])])
    gamma = c[:-1].abs().amax(-1)  # (T − 1, batch)
    products = torch.einsum("tbk,gjk->tbgj", h[:-1], weight)
    if proposition == 1:
        acting = torch.linalg.matrix_norm(weight, ord=2).expand(len(h) - 1, 1, 4)
    else:
        norm = layer.normalizers["hh_l0"]
        gain = norm.gain.detach()  # (gates, rows)
    if proposition == 2:
        rows = weight.norm(dim=-1, keepdim=True)
        directions = torch.where(rows > 0, weight / rows, torch.zeros_like(weight))
        acting = (gain.amax(-1) * torch.linalg.matrix_norm(directions, ord=2)).expand(len(h) - 1, 1, 4)
    elif proposition == 3:
        sigma = (products.var(-1, correction=0) + norm.eps).sqrt()
        acting = gain.amax(-1) / sigma * torch.linalg.matrix_norm(weight, ord=2)
    elif proposition == 4:
        sigma = (products.var(1, correction=0) + norm.eps).sqrt()
        acting = (gain / sigma).amax(-1) * torch.linalg.matrix_norm(weight, ord=2)
        squares = acting.square()
        gamma2 = gamma.amax(1).square()
        lambda2 = squares[:, 0] / 2 + gamma2 / 2 * squares[:, 1] + 8 * squares[:, 2]
        lambda1 = lambda2 + squares[:, 3] / 4
        left = dh[:-1].square().sum((1, 2))
        return left, lambda1 * dh[1:].square().sum((1, 2)) + lambda2 * after.square().sum((1, 2))
    lambda2 = acting[..., 0] / 4 + gamma / 4 * acting[..., 1] + acting[..., 2]
    lambda1 = lambda2 + acting[..., 3] / 4
    return dh[:-1].norm(dim=-1), lambda1 * dh[1:].norm(dim=-1) + lambda2 * after.norm(dim=-1)


def holds(left: Tensor, right: Tensor) -> bool:
    return bool((left <= right * ROUNDING + 1e-300).all())


@pytest.mark.parametrize("proposition", [1, 2, 3, 4])
def test_printed_propositions_hold_for_positive_gains(proposition: int) -> None:
    """One layer, one direction, no projection, no normalised cell, positive gains: as in the paper."""
    compared = 0
    for seed in range(CASES):
        layer = random_layer(seed, proposition)
        set_gains(layer, positive=True)
        (analysis,) = measure(layer, seed)
        left, right = printed_sides(layer, proposition, analysis)
        assert holds(left, right), f"seed {seed}"
        compared += left.numel()
        bounds = analysis.bounds
        assert bounds is not None
        # The package's left side is the whole gradient here, and its right side the printed one: smaller only
        # where a row of zeros has the largest gain of proposition 2.
        ours, theirs = bounds.left[1:], bounds.proposition.right[1:]
        if bounds.squared is not None:
            ours, theirs = ours[:, 0].square(), bounds.squared.right[1:, 0]
        torch.testing.assert_close(ours, left, rtol=1e-8, atol=1e-12 * right.max().item())
        assert holds(theirs, right * (1 + 1e-6))
        if proposition != 2 or bool((layer.quantized_weights()["hh"] != 0).any(-1).all()):
            torch.testing.assert_close(theirs, right, rtol=1e-6, atol=0)
    assert compared >= CASES * 3


OPTIONS: dict[str, tuple[type[RecurrentLayer], dict[str, Any]]] = {
    "LSTM": (LSTM, {}),
    "LSTM, two layers, both directions": (LSTM, {"num_layers": 2, "bidirectional": True}),
    "LSTM, projection": (LSTM, {"proj_size": -1}),
    "LSTM, layer norm of the cell": (LSTM, {"normalizer": "layer:cell=true"}),
    "LSTM, batch norm of the cell": (LSTM, {"normalizer": "batch-shared:cell=true"}),
    "LSTM, RMS norm": (LSTM, {"normalizer": "rms"}),
    "GRU": (GRU, {}),
    "GRU, two layers": (GRU, {"num_layers": 2}),
}


@pytest.mark.parametrize("title", list(OPTIONS))
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_bounds_hold_for_every_layer(title: str, training: bool) -> None:
    """Gains of either sign, every normaliser: in the form that docs/gradient-bounds.md derives."""
    cell, options = OPTIONS[title]
    cases = CASES if title in ("LSTM", "GRU") and training else 60
    for seed in range(cases):
        given = dict(options)
        if "proj_size" in given:
            torch.manual_seed(seed)
            hidden = 2 + seed % 5
            names = NORMALIZERS[1 + seed % 4]
            layer = LSTM(3, hidden, proj_size=1 + seed % (hidden - 1), normalizer=names[0],
                         quantizer=QUANTIZERS[seed % len(QUANTIZERS)], dtype=torch.float64)  # fmt: skip
        else:
            layer = random_layer(seed, 1 + seed % 4, cell, **given)
        layer.train(training)
        set_gains(layer, positive=False)
        for analysis in measure(layer, seed):
            bounds, unrolled = analysis.bounds, analysis.unrolled
            assert bounds is not None
            assert unrolled is not None
            for inequality in (bounds.proposition, bounds.measured):
                assert holds(bounds.left, inequality.right), f"seed {seed}"
            assert bool((bounds.measured.right <= bounds.proposition.right * ROUNDING).all())
            if bounds.squared is not None:
                assert holds(bounds.left.square(), bounds.squared.right), f"seed {seed}"
                tighter = bounds.proposition.right.square()
                assert holds(tighter, bounds.squared.right), "the sum is the tighter form"
            # left + direct is the whole gradient: they are vectors' norms, so that it lies between.
            whole = unrolled.over_batch(unrolled.dh[:-1])
            assert holds(whole, bounds.left[1:] + bounds.direct[1:])
            top = unrolled.dh.numel() and analysis.gradients.trace.layer == layer.num_layers - 1
            if top and analysis.gradients.trace.direction == 0:
                rounding = 1e-10 * bounds.left.max() + 1e-12 * bounds.dh.max()
                assert bool((bounds.direct[1:] <= rounding).all()), "nothing comes from above"


def test_bounds_of_one_batch_combine_the_sequences() -> None:
    layer = random_layer(3, 3)
    (analysis,) = measure(layer, 0)
    bounds = analysis.bounds
    assert bounds is not None
    _, _, right = bounds.over_batch(bounds.proposition)
    assert holds(bounds.left.norm(dim=1), right)


# Where the propositions do not hold as printed: docs/gradient-bounds.md, "Where the printed form fails".


@pytest.mark.parametrize("proposition", [2, 3, 4])
def test_printed_propositions_fail_for_negative_gains(proposition: int) -> None:
    """They take max g_j where max |g_j| is meant. With negative gains alone it is even negative."""
    torch.manual_seed(0)
    layer = LSTM(3, 4, normalizer=NORMALIZERS[proposition][0], dtype=torch.float64)
    with torch.no_grad():
        gain = layer.normalizers["hh_l0"].gain
        gain.copy_(torch.tensor([-2.0, 1e-4, 1e-4, 1e-4]).expand(4, 4))
    (analysis,) = measure(layer, 0)
    left, right = printed_sides(layer, proposition, analysis)
    assert bool((left > 1.5 * right).any())
    assert analysis.bounds is not None
    assert holds(analysis.bounds.left, analysis.bounds.proposition.right)


def test_printed_proposition_fails_below_another_layer() -> None:
    """With W_h = 0 it says that no gradient reaches h_{t−1}; the layer above sends one."""
    torch.manual_seed(0)
    layer = LSTM(3, 4, num_layers=2, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
    below, _ = measure(layer, 0)
    left, right = printed_sides(layer, 1, below)
    assert bool((right == 0).all())
    assert bool((left > 1e-3).all())
    assert below.bounds is not None
    assert bool((below.bounds.left == 0).all())
    torch.testing.assert_close(below.bounds.direct[1:], left)


@pytest.mark.parametrize("proposition, normalizer", [(3, "layer:cell=true"), (4, "batch-shared:cell=true")])
def test_printed_propositions_fail_with_a_normalised_cell(proposition: int, normalizer: str) -> None:
    """A normaliser of c stretches the gradient by max |g_j|/σ_j, which the printed λ1 leaves out."""
    torch.manual_seed(0)
    layer = LSTM(3, 4, normalizer=normalizer, bias=False, dtype=torch.float64)
    with torch.no_grad():
        for name, norm in layer.normalizers.items():
            norm.gain.fill_(1.0 if name.startswith("cell") else 0.001)
            norm.eps = 1e-12
    (analysis,) = measure(layer, 0, state_size=0.0)  # a cell state of small spread: σ is small
    left, right = printed_sides(layer, proposition, analysis)
    assert bool((left > 1.5 * right).any())
    assert analysis.bounds is not None
    assert holds(analysis.bounds.left, analysis.bounds.proposition.right)


def test_proposition_4_is_about_the_batch_and_not_about_each_sequence() -> None:
    """Through batch statistics a sequence gets gradient from others, whose own may be zero."""
    torch.manual_seed(0)
    layer = LSTM(3, 4, normalizer="batch-shared", dtype=torch.float64)
    x = torch.randn(4, 3, 3, dtype=torch.float64)
    (analysis,) = analyze(layer, lambda: layer(x)[0][-1, 0].sum())  # the loss reads sequence 0 alone
    dh = torch.stack(analysis.gradients.h)
    assert bool((dh[-1, 1:] == 0).all())
    assert bool((dh[-2, 1:].norm(dim=-1) > 1e-9).all())
    left, right = printed_sides(layer, 4, analysis)
    assert holds(left, right)


def test_gradients_explode_although_lambda1_is_below_1() -> None:
    """The corollary needs λ2 = 0. Here λ1 = ½ at every step, and the gradient doubles in less than two."""
    layer = LSTM(1, 1, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_ih_l0.zero_()
        layer.weight_hh_l0.copy_(torch.tensor([[0.0], [0.0], [0.5], [0.0]]))
        layer.bias_hh_l0.zero_()
        layer.bias_ih_l0.copy_(torch.tensor([40.0, 40.0, 0.0, 40.0]))  # i, f, o open; c and h stay 0
    x = torch.zeros(50, 1, 1, dtype=torch.float64)
    (analysis,) = analyze(layer, lambda: layer(x)[0][-1].sum())
    bounds = analysis.bounds
    assert bounds is not None
    torch.testing.assert_close(bounds.proposition.lambda1, torch.full((50, 1), 0.5, dtype=torch.float64))
    assert not bool(bounds.lambdas.corollary.any())
    norms = analysis.gradients.norms()
    # h_t = c_t here, and c_{t+1} = c_t + ½ h_t: all gradient at c_1 is 1.5⁴⁹, at h_1 the half of c_2's.
    assert norms.cell_norms[0] == pytest.approx(1.5**49, rel=1e-9)
    assert norms.growth == pytest.approx(0.5 * 1.5**48, rel=1e-9)


def test_corollary_says_when_no_step_can_grow() -> None:
    torch.manual_seed(0)
    layer = LSTM(3, 4, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_hh_l0[:12] = 0  # i, f and g do not look back: λ2 = 0
    (analysis,) = measure(layer, 0)
    assert analysis.lambdas is not None
    assert bool(analysis.lambdas.corollary.all())
    summary = analysis.summary().bounds
    assert summary is not None
    assert (summary.corollary, summary.lambda2) == (1.0, 0.0)
    dh = torch.stack(analysis.gradients.h).norm(dim=-1)
    assert holds(dh[:-1], dh[1:])
