"""The fused route in several threads computes what it does in one, however the threads come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fused_cases import normalizer
from recurrent_cases import Sign
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from qlstm_core import GRU, LSTM, FactorizedLSTM, GroupedLSTM, RecurrentLayer
from qlstm_core.kernels import threads
from qlstm_core.layers.fused.compiled import steps

LAYERS: dict[str, Any] = {
    "lstm": lambda **o: LSTM(12, 48, **o),
    "projected": lambda **o: LSTM(70, 48, proj_size=33, **o),
    "gru": lambda **o: GRU(12, 48, **o),
    "factorized": lambda **o: FactorizedLSTM(12, 48, rank=9, **o),
    "grouped": lambda **o: GroupedLSTM(12, 96, groups=2, **o),
}


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(threads, "WORTH_A_THREAD", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def gradients(layer: RecurrentLayer, x: Any) -> list[torch.Tensor]:
    y = layer(x)[0]
    y = y.data if isinstance(y, PackedSequence) else y
    torch.manual_seed(1)
    return [y, *torch.autograd.grad((y * torch.randn_like(y)).sum(), list(layer.parameters()))]


@pytest.mark.parametrize("pool", [False, True], ids=["team", "pool"])
@pytest.mark.parametrize("own_columns", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("name", ["layer", "batch-shared"])
@pytest.mark.parametrize("cell", sorted(LAYERS))
def test_two_threads_compute_what_one_does(
    cell: str,
    name: str,
    packed: bool,
    own_columns: bool,
    pool: bool,
    two_threads: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if own_columns:
        monkeypatch.setattr(steps, "CACHED", 0)
    if pool:
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    torch.manual_seed(0)
    layer = LAYERS[cell](quantizer=Sign(), normalizer=normalizer(name), dtype=torch.float64)
    x: Any = torch.randn(7, 21, layer.input_size, dtype=torch.float64)
    if packed:
        x = pack_padded_sequence(x, [*torch.randint(1, 8, (19,)).tolist(), 7, 7], enforce_sorted=False)
    together = gradients(layer, x)
    torch.set_num_threads(1)
    for mine, alone in zip(together, gradients(layer, x), strict=True):
        torch.testing.assert_close(mine, alone, rtol=1e-11, atol=1e-11)


def test_an_error_in_one_part_reaches_the_caller(two_threads: None) -> None:
    def run(part: int) -> None:
        if part == 1:
            raise ValueError("part 1")

    with pytest.raises(ValueError, match="part 1"):
        threads.share_work(2, run)
