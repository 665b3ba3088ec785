"""Weights that torch computes from others: parametrised, pruned, and by the older hooks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from recurrent_cases import Sign
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from qlstm_core import LSTM, track_curvature
from qlstm_core.packed import pack

WAYS: dict[str, Callable[[LSTM, str], object]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "pruned": lambda layer, name: prune.l1_unstructured(layer, name, amount=0.3),
    "older weight_norm": nn.utils.weight_norm,
    "older spectral_norm": nn.utils.spectral_norm,
}
SOURCES = {
    "weight_norm": "parametrizations.weight_hh_l0.original1",
    "spectral_norm": "parametrizations.weight_hh_l0.original",
    "pruned": "weight_hh_l0_orig",
    "older weight_norm": "weight_hh_l0_v",
    "older spectral_norm": "weight_hh_l0_orig",
}

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")


class Bounded(Sign):
    """Signs, zeros of pruned weights kept, of weights that are held within ±0.1; wants second moments."""

    needs_curvature = True
    bits = 2

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return super().forward(weight) * weight.detach().sign().abs()

    def constrain_(self, weight: Tensor) -> None:
        weight.clamp_(-0.1, 0.1)


def computed(way: str) -> LSTM:
    torch.manual_seed(0)
    layer = LSTM(4, 6, bidirectional=True, quantizer=Bounded())
    WAYS[way](layer, "weight_hh_l0")
    WAYS[way](layer, "weight_hh_l0_reverse")
    return layer


def trained(way: str) -> tuple[LSTM, torch.optim.Optimizer]:
    layer = computed(way)
    optimizer = torch.optim.Adam(layer.parameters())
    track_curvature(layer, optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        layer(torch.randn(5, 3, 4))[0].square().sum().backward()
        optimizer.step()
    return layer, optimizer


@pytest.mark.parametrize("way", WAYS)
def test_curvature_comes_from_the_parameter_of_the_weights_shape(way: str) -> None:
    layer, optimizer = trained(way)
    moment = optimizer.state[layer.get_parameter(SOURCES[way])]["exp_avg_sq"]
    assert torch.equal(layer.curvature_hh_l0, moment)
    assert not torch.equal(layer.curvature_hh_l0, layer.curvature_hh_l0_reverse)


@pytest.mark.parametrize("way", WAYS)
def test_packs_what_the_next_evaluation_computes(way: str) -> None:
    """Hooks compute a weight before a forward call: after a step it is an old one until then."""
    layer, _ = trained(way)
    with torch.no_grad():
        layer.get_parameter(SOURCES[way]).neg_()
    packed = pack(layer)
    x = torch.randn(5, 3, 4)
    with torch.no_grad():
        torch.testing.assert_close(packed(x)[0], layer.eval()(x)[0], rtol=0, atol=2e-3)


@pytest.mark.parametrize("way", WAYS)
def test_weights_are_listed_reset_and_constrained(way: str) -> None:
    layer, _ = trained(way)
    assert [tuple(w.shape) for w in layer.all_weights[0]] == [(24, 4), (24, 6), (24,), (24,)]
    plain = LSTM(4, 6, bidirectional=True, quantizer=Bounded())
    assert layer.storage_bytes() == plain.storage_bytes()
    before = layer.get_parameter(SOURCES[way]).clone()
    layer.reset_parameters()
    assert (layer.get_parameter(SOURCES[way]) != before).float().mean() > 0.9
    assert torch.equal(layer.curvature_hh_l0, torch.ones(24, 6))
    if "spectral" not in way:
        assert layer.weight_hh_l0.abs().max() <= 6**-0.5 + 1e-6
        layer.constrain_()
        layer.eval()(torch.randn(5, 3, 4))
        assert 0.09 < layer.weight_hh_l0.abs().max() <= 0.1 + 1e-6


def test_a_weight_computed_from_other_shapes_has_no_curvature() -> None:
    class Product(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return left @ right

        def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
            return weight[:, :2].clone(), weight[:2].clone()

    layer = LSTM(4, 6, quantizer={"hh": Bounded()})
    nn.utils.parametrize.register_parametrization(layer, "weight_hh_l0", Product())
    with pytest.raises(
        ValueError, match=r"weight_hh_l0 is computed from parameters of shapes \[\(24, 2\), \(2, 6"
    ):
        track_curvature(layer, torch.optim.Adam(layer.parameters()))


def test_a_layer_without_weights_is_not_packed() -> None:
    with pytest.raises(ValueError, match=r"on the meta device, which has none: layer.to_empty"):
        pack(LSTM(4, 6, quantizer=Sign(), device="meta"))
