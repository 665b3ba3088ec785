"""What torch does with any module: compile it, replicate it, run it mixed-precision, move it to a GPU."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from recurrent_cases import RowNorm, Sign, StepGain
from replica import train_replica

from qlstm_core import GRU, LSTM, FactorizedLSTM, GroupedLSTM, RecurrentLayer

FAMILY = {
    "lstm": lambda **o: LSTM(4, 6, 2, bidirectional=True, **o),
    "projected": lambda **o: LSTM(4, 6, 2, proj_size=2, **o),
    "gru": lambda **o: GRU(4, 6, 2, **o),
    "factorized": lambda **o: FactorizedLSTM(4, 6, 2, rank=3, **o),
    "grouped": lambda **o: GroupedLSTM(4, 6, 2, groups=2, **o),
}
NORMALIZERS = {"none": "none", "gain": StepGain(), "rows": RowNorm()}

# torch's own: oneDNN has no projections, and cuDNN wants weights in one block, which quantized ones are not.
pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk"),
]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


def gradients(layer: RecurrentLayer, x: torch.Tensor) -> list[torch.Tensor]:
    output, _ = layer(x)
    return list(torch.autograd.grad(output.float().square().sum(), list(layer.parameters())))


# torch's own, while it traces a custom gradient.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("family", FAMILY)
def test_compiles_with_graph_breaks(family: str, normalizer: str) -> None:
    torch.manual_seed(0)
    layer = FAMILY[family](quantizer=Sign(), normalizer=NORMALIZERS[normalizer])
    compiled = torch.compile(layer, fullgraph=False, backend="eager")
    x = torch.randn(3, 2, 4)
    torch.testing.assert_close(compiled(x)[0], layer(x)[0])
    for got, expected in zip(gradients(compiled, x), gradients(layer, x), strict=True):
        torch.testing.assert_close(got, expected)
    torch.compiler.reset()


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("family", ["lstm", "gru", "factorized", "grouped"])
def test_exports_with_a_batch_of_any_size(family: str, tokens: bool) -> None:
    """By torch's own operator and by the readable loop, as torch.nn.LSTM does."""
    torch.manual_seed(0)
    normalizer = "none" if family == "lstm" else StepGain()
    layer = FAMILY[family](quantizer=Sign(), normalizer=normalizer).eval()
    x = torch.randint(4, (2, 3)) if tokens else torch.randn(2, 3, 4)
    exported = torch.export.export(layer, (x,), dynamic_shapes=({1: torch.export.Dim("batch")},)).module()
    for batch in (2, 7):
        other = torch.randint(4, (2, batch)) if tokens else torch.randn(2, batch, 4)
        torch.testing.assert_close(exported(other)[0], layer(other)[0])


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("family", FAMILY)
def test_autocast_keeps_close_to_full_precision(family: str, normalizer: str) -> None:
    torch.manual_seed(0)
    layer = FAMILY[family](normalizer=NORMALIZERS[normalizer])
    x = torch.randn(3, 2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = layer(x)[0]
    torch.testing.assert_close(mixed.float(), layer(x)[0], rtol=0.05, atol=0.05)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_data_parallel_gradients_are_the_mean_over_replicas(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(train_replica, args=(port, str(tmp_path)), nprocs=2)
    torch.manual_seed(0)
    layer = LSTM(4, 6, quantizer=Sign(), normalizer=StepGain())
    torch.manual_seed(1)
    layer(torch.randn(3, 4, 4))[0].sum().backward()
    got = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for mine, parameter in zip(got, layer.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad / 2)


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("family", FAMILY)
def test_cuda_equals_cpu(family: str, normalizer: str) -> None:
    torch.manual_seed(0)
    layer = FAMILY[family](quantizer=Sign(), normalizer=NORMALIZERS[normalizer])
    x = torch.randn(5, 3, 4)
    tokens = torch.randint(4, (5, 3))
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, [2, 5, 3], enforce_sorted=False)
    expected = [layer(x)[0], layer(tokens)[0], layer(packed)[0].data, *gradients(layer, x)]
    layer.cuda()
    on_gpu = [
        layer(x.cuda())[0],
        layer(tokens.cuda())[0],
        layer(packed.to("cuda"))[0].data,
        *gradients(layer, x.cuda()),
    ]
    for mine, their in zip(on_gpu, expected, strict=True):
        assert mine.is_cuda
        torch.testing.assert_close(mine.cpu(), their, rtol=1e-3, atol=1e-4)


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILY)
def test_cuda_autocast(family: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = FAMILY[family](normalizer=StepGain()).cuda()
    x = torch.randn(5, 3, 4, device="cuda")
    with torch.autocast("cuda", dtype=dtype):
        mixed = layer(x)[0]
    torch.testing.assert_close(mixed.float(), layer(x)[0], rtol=0.05, atol=0.05)


@pytest.mark.cuda
@needs_cuda
def test_state_dict_moves_between_devices(tmp_path: Path) -> None:
    layer = LSTM(4, 6, quantizer=Sign(), normalizer=StepGain()).cuda()
    torch.save(layer.state_dict(), tmp_path / "weights.pt")
    other = LSTM(4, 6, quantizer=Sign(), normalizer=StepGain())
    other.load_state_dict(torch.load(tmp_path / "weights.pt", map_location="cpu", weights_only=True))
    x = torch.randn(5, 3, 4)
    torch.testing.assert_close(other(x)[0], layer(x.cuda())[0].cpu(), rtol=1e-3, atol=1e-4)
