"""The peers compute what torch.nn.LSTM computes, so that their durations mean something."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from qlstm_bench.speed import peers
from qlstm_bench.speed.peers import Peer


def run(peer: Peer, lstm: nn.LSTM) -> tuple[float, float]:
    """Return the relative errors of output and final cell state against float64."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((7, 3, lstm.input_size), np.float32)
    h, c = (generator.standard_normal((1, 3, lstm.hidden_size), np.float32) for _ in range(2))
    with torch.no_grad():
        state = tuple(torch.from_numpy(s).double() for s in (h, c))
        y, (_, c_n) = lstm.double()(torch.from_numpy(x).double(), state)
    lstm.float()
    output, state = peer.forward(x, (h, c))
    return tuple(
        float(np.linalg.norm(got - wanted.numpy()) / wanted.norm())
        for got, wanted in ((output, y), (state[1], c_n))
    )


@pytest.mark.parametrize(
    ("make", "tolerance"),
    [
        (peers.torch_float32, 1e-6),
        (peers.torch_cell, 1e-6),
        (peers.torch_int8, 5e-2),
    ],
)
def test_torch(make: Callable[[nn.LSTM], Peer], tolerance: float) -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(20, 30)
    errors = run(make(lstm), lstm)
    assert max(errors) < tolerance
    assert (make is peers.torch_int8) == (max(errors) > 1e-4), "int8 is not float32 under another name"


@pytest.mark.parametrize(
    ("make", "tolerance"), [(peers.onnx_runtime_float32, 1e-6), (peers.onnx_runtime_int8, 5e-2)]
)
def test_onnx_runtime(make: Callable[[nn.LSTM], Peer], tolerance: float) -> None:
    pytest.importorskip("onnxruntime", reason="the extra [peers] is not installed")
    pytest.importorskip("onnx", reason="the extra [peers] is not installed")
    torch.manual_seed(0)
    lstm = nn.LSTM(20, 30)
    errors = run(make(lstm), lstm)
    assert max(errors) < tolerance
    assert (make is peers.onnx_runtime_int8) == (max(errors) > 1e-4)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert (
        peers.onnx_runtime_missing()
        == "onnx and onnxruntime not installed (pip install 'qlstm-bench[peers]')"
    )
