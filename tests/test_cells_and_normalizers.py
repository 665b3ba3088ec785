"""Every cell with every normaliser: gradients by finite differences, and what scaling the weights does."""

from __future__ import annotations

import pytest
import torch

from qlstm_core import GRU, LSTM, FactorizedLSTM, GroupedLSTM, RecurrentLayer

CELLS = {
    "lstm": lambda **o: LSTM(2, 3, **o),
    "lstm-projected": lambda **o: LSTM(2, 3, proj_size=2, **o),
    "gru": lambda **o: GRU(2, 3, **o),
    "factorized": lambda **o: FactorizedLSTM(2, 3, rank=2, **o),
    "grouped": lambda **o: GroupedLSTM(2, 4, groups=2, **o),
}
NORMALIZERS = ["none", "weight", "layer", "rms", "batch-shared", "batch-separate:max_steps=2"]

# torch's own: oneDNN has no projections.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


@pytest.mark.parametrize("normalizer", [*NORMALIZERS, "layer:cell=true", "batch-shared:cell=true"])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_by_finite_differences(cell: str, normalizer: str) -> None:
    if cell == "gru" and "cell" in normalizer:
        with pytest.raises(ValueError, match="no cell state"):
            CELLS[cell](normalizer=normalizer)
        return
    torch.manual_seed(0)
    # A larger ε keeps the first step, whose state is zero, smooth enough for differences.
    eps = {"none": "", "weight": ""}.get(normalizer, ("," if ":" in normalizer else ":") + "eps=0.1")
    layer: RecurrentLayer = CELLS[cell](normalizer=normalizer + eps, dtype=torch.float64)
    x = torch.randn(2, 3, layer.input_size, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    buffers = {name: value.clone() for name, value in layer.named_buffers()}

    def call(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        state = dict(zip(names, values, strict=True)) | {k: v.clone() for k, v in buffers.items()}
        return torch.func.functional_call(layer, state, (x,))[0]

    assert torch.autograd.gradcheck(call, (x, *parameters))


@pytest.mark.parametrize("normalizer", NORMALIZERS[1:])
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
