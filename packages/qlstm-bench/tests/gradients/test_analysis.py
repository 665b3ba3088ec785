"""What is kept of a measurement, and what is said where a layer cannot be bounded."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from qlstm_bench.gradients import (
    StateGradientNorms,
    analyze,
    clipped_share,
    gradient_decades,
    lambda1_excess,
    stability_figures,
)
from qlstm_bench.gradients.analysis import recurrent_matrices
from qlstm_core import LSTM, FactorizedLSTM, GroupedLSTM, Normalizer, RecurrentLayer


class Damped(Normalizer):
    """Halves what it gets, and declares no statistics."""

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        return preactivation / 2


def last_output_loss(layer: RecurrentLayer, steps: int = 6, batch: int = 4) -> Tensor:
    torch.manual_seed(1)
    x = torch.randn(steps, batch, layer.input_size, dtype=torch.float64)
    loss: Tensor = layer(x)[0][-1].square().sum()
    return loss


def test_summary_of_binary_weights() -> None:
    torch.manual_seed(0)
    layer = LSTM(3, 8, quantizer="binary-connect", normalizer="layer", dtype=torch.float64)
    with torch.no_grad():
        layer.normalizers["hh_l0"].gain.mul_(torch.tensor([1.0, -2.0, 3.0, -4.0]).view(4, 1))
    (analysis,) = analyze(layer, lambda: last_output_loss(layer))
    summary = analysis.summary()
    weight = layer.weight_hh_l0.detach().view(4, 8, 8)
    assert [gate.gate for gate in summary.gates] == list("ifgo")
    for k, gate in enumerate(summary.gates):
        assert gate.full == pytest.approx(torch.linalg.matrix_norm(weight[k], ord=2).item(), rel=1e-6)
        signs = torch.where(weight[k] < 0, -1.0, 1.0).double()
        assert gate.quantized == pytest.approx(torch.linalg.matrix_norm(signs, ord=2).item(), rel=1e-6)
        assert gate.signs == gate.levels == pytest.approx(math.sqrt(8))
        assert gate.sparsity == 0
        assert gate.gain == pytest.approx(k + 1)
    assert summary.bounds is not None
    # Without normaliser λ1 is proposition 1's, with γ as measured.
    gamma = summary.bounds.gamma
    i, f, g, o = (gate.quantized for gate in summary.gates)
    assert summary.bounds.quantized_lambda1 == pytest.approx(i / 4 + gamma / 4 * f + g + o / 4, rel=1e-6)
    assert summary.bounds.quantized_lambda1 > summary.bounds.full_lambda1
    assert summary.bounds.tightness > summary.bounds.measured_tightness > 0
    assert summary.bounds.lambda1 <= summary.bounds.largest_lambda1


def test_lambdas_alone_are_those_of_both_sides() -> None:
    torch.manual_seed(0)
    layer = LSTM(3, 4, quantizer="twn", normalizer="batch-shared", dtype=torch.float64)
    both, alone = (
        analyze(layer, lambda: last_output_loss(layer), both_sides=sides)[0].summary()
        for sides in (True, False)
    )
    assert both.norms == alone.norms
    assert both.gates == alone.gates
    assert both.bounds is not None
    assert alone.bounds is not None
    for name, value in asdict(alone.bounds).items():
        if name in ("measured_lambda1", "tightness", "measured_tightness"):
            assert math.isnan(value)
        else:
            assert value == getattr(both.bounds, name)


@pytest.mark.parametrize("layer_class", [LSTM, FactorizedLSTM, GroupedLSTM])
def test_recurrent_matrices_are_what_the_layer_multiplies_with(layer_class: type[RecurrentLayer]) -> None:
    torch.manual_seed(0)
    options = {FactorizedLSTM: {"rank": 4}, GroupedLSTM: {"groups": 2}}.get(layer_class, {})
    layer = layer_class(
        4, 6, 2, bidirectional=True, quantizer="binary-connect", normalizer="layer", **options
    )
    plain, quantized = (recurrent_matrices(layer, quantized=q) for q in (False, True))
    assert len(plain) == len(quantized) == 4
    assert plain[0].shape == (4, 6, 6)
    h = torch.randn(1, 6)
    expected = layer.prepared_cell(1, 1).recurrent(h)
    if layer_class is GroupedLSTM:  # (groups · gates, rows), and zeros between the groups
        expected = expected.view(1, 2, 4, 3).transpose(1, 2).reshape(1, 4, 6)
        assert bool((quantized[3][:, :3, 3:] == 0).all())
    torch.testing.assert_close(torch.einsum("grc,bc->bgr", quantized[3], h), expected)
    assert not torch.equal(plain[3], quantized[3])
    assert layer.normalizers  # left as it is


def test_layers_that_cannot_be_bounded_say_why() -> None:
    layer = LSTM(3, 4, normalizer=Damped(), dtype=torch.float64)
    (analysis,) = analyze(layer, lambda: last_output_loss(layer))
    summary = analysis.summary()
    assert summary.bounds is None
    assert summary.gates == ()
    assert "Damped are not known: it declares no statistics" in summary.reason
    assert min(summary.norms.norms) > 0
    assert "lambda1" not in stability_figures([summary])

    layer = LSTM(3, 4, dtype=torch.float64)
    packed = pack_padded_sequence(torch.randn(5, 2, 3, dtype=torch.float64), torch.tensor([5, 3]))
    (analysis,) = analyze(layer, lambda: layer(packed)[0].data.sum())
    assert "sequences of one length" in analysis.reason
    assert len(analysis.summary().norms.norms) == 5


def test_decades() -> None:
    norms = [StateGradientNorms(0, 0, (1e-3, 1.0, 10.0)), StateGradientNorms(0, 1, (2.0, 1.0))]
    assert gradient_decades(norms) == pytest.approx(4)
    assert gradient_decades([StateGradientNorms(0, 0, (2.0, 2.0))]) == 0
    assert gradient_decades([StateGradientNorms(0, 0, (0.0, 0.0))]) == 0
    overflown = gradient_decades([StateGradientNorms(0, 0, (math.inf, 1.0))])
    underflown = gradient_decades([StateGradientNorms(0, 0, (0.0, 1.0))])
    assert overflown == pytest.approx(308.25, abs=0.01)
    assert underflown == pytest.approx(323.3, abs=0.1)


def test_clipped_share_weighs_lines_by_their_steps() -> None:
    rows = [{"step": 10, "clipped": 0.5}, {"step": 12, "valid_bpc": 3.0}, {"step": 15, "clipped": 1.0}]
    assert clipped_share(rows) == pytest.approx((5 + 5) / 15)
    assert clipped_share([]) == 0


def test_excess() -> None:
    assert lambda1_excess(0.5) == 0
    assert lambda1_excess(3.5) == 2.5
