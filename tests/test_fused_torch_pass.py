"""The fused path on torch operations, which GPUs take, computes what the loop does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from qlstm_core import GRU, LSTM, FactorizedLSTM, GroupedLSTM, RecurrentLayer, readable_loop
from qlstm_core.layers.fused import chunk_products, passes

CELLS: dict[str, Any] = {
    "lstm": lambda **o: LSTM(70, 12, proj_size=5, bidirectional=True, **o),
    "gru": lambda **o: GRU(70, 12, **o),
    "factorized": lambda **o: FactorizedLSTM(70, 12, rank=3, **o),
    "grouped": lambda **o: GroupedLSTM(70, 12, groups=2, **o),
}


def gradients(layer: RecurrentLayer, x: torch.Tensor) -> list[torch.Tensor]:
    y = layer(x)[0]
    torch.manual_seed(1)
    return [y, *torch.autograd.grad((y * torch.randn_like(y)).sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize("normalizer", ["layer", "rms", "batch-shared"])
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_torch_operations_equal_the_loop(cell: str, normalizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (passes, chunk_products):
        monkeypatch.setattr(module, "find_spec", lambda name: None)  # as without numba
    torch.manual_seed(0)
    fused = CELLS[cell](normalizer=normalizer, dtype=torch.float64)
    loop = copy.deepcopy(fused)
    x = torch.randn(5, 4, 70, dtype=torch.float64, requires_grad=True)
    got = gradients(fused, x)
    with readable_loop():
        expected = gradients(loop, x)
    for mine, their in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-10, atol=1e-10)
