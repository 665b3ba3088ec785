"""Every normaliser keeps the promise of its statistics; with every cell, scaling the weights does nothing."""

from __future__ import annotations

import pytest
import torch

from qlstm_core import GRU, LSTM, FactorizedLSTM, GroupedLSTM, readable_loop

CELLS = {
    "lstm": lambda **o: LSTM(2, 3, **o),
    "lstm-projected": lambda **o: LSTM(2, 3, proj_size=2, **o),
    "gru": lambda **o: GRU(2, 3, **o),
    "factorized": lambda **o: FactorizedLSTM(2, 3, rank=2, **o),
    "grouped": lambda **o: GroupedLSTM(2, 4, groups=2, **o),
}
NORMALIZERS = ["weight", "layer", "rms", "batch-shared", "batch-separate:max_steps=2"]

# torch's own: oneDNN has no projections.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("cell", CELLS)
def test_scaling_the_weights_changes_nothing(cell: str, normalizer: str) -> None:
    """What the papers rest on: N(W x) does not feel a factor on W, so quantization's scale does no harm."""
    torch.manual_seed(0)
    layer = CELLS[cell](normalizer=normalizer, dtype=torch.float64)
    if normalizer != "weight":
        for norm in layer.normalizers.values():
            norm.eps = 1e-24
    x = torch.randn(5, 4, layer.input_size, dtype=torch.float64)
    expected = layer(x)[0]
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("weight") and "hr" not in name:
                parameter *= 17.0
    torch.testing.assert_close(layer(x)[0], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("normalizer", NORMALIZERS[1:])
def test_the_fused_route_computes_what_a_normaliser_does(normalizer: str) -> None:
    torch.manual_seed(0)
    option = f"{normalizer}{',' if ':' in normalizer else ':'}cell=true"
    layer = LSTM(3, 5, normalizer=option, dtype=torch.float64)
    assert [route.kind for route in layer.routes()] == ["fused"]
    x = torch.randn(4, 6, 3, dtype=torch.float64)
    for training in (True, False):
        layer.train(training)
        found = layer(x)[0]
        with readable_loop():
            torch.testing.assert_close(found, layer(x)[0])
