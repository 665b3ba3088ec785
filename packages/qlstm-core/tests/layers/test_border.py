"""What may enter compiled code, and what is refused by name or left to the readable loop."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numba
import pytest
import torch
from recurrent_cases import Sign
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn.utils.rnn import PackedSequence

from qlstm_core import GRU, LSTM, FactorizedLSTM, GroupedLSTM, Normalizer, Quantizer, pack, readable_loop
from qlstm_core.layers.border import compiles, is_plain
from qlstm_core.layers.fused import function
from qlstm_core.plugins import PluginError


class Scaled(Normalizer):
    """RMS normalisation by its contract; ``shape`` and ``dtype`` of the gain can be wrong."""

    statistics = "features"
    centered = False
    eps = 1e-5
    bias = None

    def __init__(self, columns: int | None = None) -> None:
        super().__init__()
        self.columns = columns

    def prepare(self, weight: Tensor) -> None:
        gates, rows = weight.shape[:2]
        self.gain = torch.nn.Parameter(torch.full((gates, self.columns or rows), 0.5).to(weight))

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        square = preactivation.square().mean(-1, keepdim=True)
        return preactivation * torch.rsqrt(square + self.eps) * self.gain


def fused(cls: type[LSTM | GRU] = LSTM, **options: Any) -> Any:
    torch.manual_seed(0)
    return cls(4, 6, quantizer=Sign(), normalizer=Scaled(), **options)


@pytest.fixture(scope="module")
def layer() -> LSTM:
    return fused().eval()


X = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1))


def loop(layer: Any, x: Any) -> Tensor:
    with readable_loop():
        return layer(x)[0]


@pytest.mark.parametrize("kind", ["fused", "torch", "packed"])
@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ([0, 4], "never increase"),
        ([5, -1], "positive"),
        ([4, 0], "positive"),
        ([2, 3], "never increase"),
        ([], "positive"),
        ([3, 3], "add up to the 4 rows"),
        ([2, 1], "add up to the 4 rows"),
        ([4] * 1000, "of 1000 steps, which make 4000"),
        ([4, 2**62], "never increase"),
    ],
)
def test_batch_sizes_that_are_none_are_refused(kind: str, sizes: list[int], reason: str, layer: LSTM) -> None:
    network = {"fused": layer, "torch": LSTM(4, 6), "packed": pack(layer)}[kind]
    sequence = PackedSequence(torch.randn(4, 4), torch.tensor(sizes, dtype=torch.int64))
    with pytest.raises(RuntimeError, match=reason):
        network(sequence)


@pytest.mark.parametrize("sizes", [torch.tensor([2, 2]).int(), torch.tensor([[2, 2]]), [2, 2]])
def test_batch_sizes_are_an_int64_vector(sizes: Any, layer: LSTM) -> None:
    sequence = PackedSequence(torch.randn(4, 4), torch.tensor([2, 2]))._replace(batch_sizes=sizes)
    with pytest.raises(RuntimeError, match="batch_sizes must be a 1-D int64 tensor on the CPU"):
        layer(sequence)


class Fewer(Quantizer):
    """Returns a row less."""

    bits = 1

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return weight[:, :-1]


class Doubles(Quantizer):
    """Returns another dtype."""

    bits = 1

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return weight.double()


class NarrowWeight(Normalizer):
    """Returns a weight of fewer columns."""

    def weight(self, weight: Tensor) -> Tensor:
        return weight[..., :-1]


class OneColumn(Normalizer):
    """Returns a pre-activation that would broadcast."""

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        return preactivation[..., :1]


@pytest.mark.parametrize("normalizer", ["none", Scaled()])
def test_a_quantizer_of_another_shape_is_named(normalizer: Any) -> None:
    expected = r"quantizer Fewer returned shape \(4, 5, 6\) .* for weight_hh_l0, expected shape \(4, 6, 6\)"
    with pytest.raises(ValueError, match=expected):
        LSTM(4, 6, quantizer={"hh": Fewer()}, normalizer=normalizer)(X)


def test_a_quantizer_of_another_dtype_is_named() -> None:
    with pytest.raises(ValueError, match=r"quantizer Doubles returned .*float64 .*expected .*float32"):
        GRU(4, 6, quantizer=Doubles())(X)


class Reshaped(Quantizer):
    """Returns the weight by any function."""

    bits = 1

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        return self.function(weight)


def test_a_sparse_result_is_named() -> None:
    with pytest.raises(ValueError, match=r"quantizer Reshaped returned .*torch.sparse_coo for weight_ih_l0"):
        LSTM(4, 6, quantizer=Reshaped(lambda weight: weight.to_sparse()))(X)


@pytest.mark.parametrize("normalizer", ["none", Scaled()])
def test_a_result_of_other_strides_counts_by_its_values(normalizer: Any) -> None:
    def spread(weight: Tensor) -> Tensor:
        return weight[:, :1, :1].expand(weight.shape)

    torch.manual_seed(0)
    layer = GroupedLSTM(4, 6, groups=2, quantizer=Reshaped(spread), normalizer=normalizer)
    found = layer(X)[0]
    for quantizer in layer.quantizers.values():
        quantizer.function = lambda weight: spread(weight).contiguous()
    torch.testing.assert_close(found, layer(X)[0])


def test_a_state_quantizer_of_another_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"quantizer Fewer returned shape \(2, 0, 6\) .* for the state"):
        LSTM(4, 6, state_quantizer=Fewer())(X)


@pytest.mark.parametrize("make", [LSTM, lambda *a, **o: GroupedLSTM(*a, groups=2, **o),
                                  lambda *a, **o: FactorizedLSTM(*a, rank=2, **o)])  # fmt: skip
def test_a_normalizer_of_weights_of_another_shape_is_named(make: Any) -> None:
    with pytest.raises(ValueError, match=r"normalizer NarrowWeight returned shape .* for weight_ih_l0"):
        make(4, 6, normalizer=NarrowWeight())(X)


def test_a_normalizer_of_activations_of_another_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"OneColumn returned shape \(2, 4, 1\) .* for a pre-activation"):
        LSTM(4, 6, normalizer=OneColumn())(X)


def test_a_gain_that_broadcasts_takes_the_loop() -> None:
    layer = LSTM(4, 6, quantizer=Sign(), normalizer=Scaled(columns=1))
    (route,) = layer.routes()
    assert route.kind == "loop"
    assert "gain of shape (4, 1)" in route.reason
    full = LSTM(4, 6, quantizer=Sign(), normalizer=Scaled())
    full.load_state_dict(layer.state_dict() | {k: v for k, v in full.state_dict().items() if "gain" in k})
    torch.testing.assert_close(layer(X)[0], full(X)[0])
    with pytest.raises(ValueError, match="gain of shape"):
        pack(layer)


@pytest.mark.parametrize("cls", [LSTM, GRU])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("kind", ["fused", "packed"])
def test_a_state_of_another_dtype_is_refused_as_torch_does(kind: str, dtype: torch.dtype, cls: Any) -> None:
    layer = fused(cls).eval()
    network = layer if kind == "fused" else pack(layer)
    state = torch.zeros(1, 2, 6, dtype=dtype)
    with pytest.raises(RuntimeError, match=f"not the same dtype, .*float32 and .*{dtype}"):
        network(X, (state, state) if cls is LSTM else state)


def test_inputs_and_states_elsewhere_are_refused_as_torch_does(layer: LSTM) -> None:
    state = torch.zeros(1, 2, 6, device="meta")
    with pytest.raises(RuntimeError, match="Input and hidden tensors are not at the same device"):
        layer(X, (state, state))
    with pytest.raises(RuntimeError, match="Input and parameter tensors are not at the same device"):
        layer(X.to("meta"))


def test_what_is_no_tensor_is_refused(layer: LSTM) -> None:
    with pytest.raises(TypeError, match="LSTM: expected tensors, got ndarray"):
        layer(X.numpy())
    with pytest.raises(TypeError, match="LSTM: expected tensors, got list"):
        layer(X, ([0.0], [0.0]))


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("family", ["lstm", "gru", "factorized", "grouped", "torch"])
def test_an_empty_batch_gives_an_empty_batch(family: str, tokens: bool) -> None:
    options: dict[str, Any] = {"quantizer": Sign(), "normalizer": Scaled()}
    layer = {
        "lstm": lambda: LSTM(4, 6, 2, bidirectional=True, proj_size=2, **options),
        "gru": lambda: GRU(4, 6, **options),
        "factorized": lambda: FactorizedLSTM(4, 6, rank=2, **options),
        "grouped": lambda: GroupedLSTM(4, 6, groups=2, **options),
        "torch": lambda: LSTM(4, 6, quantizer=Sign()),
    }[family]()
    x = torch.zeros(3, 0, dtype=torch.int64) if tokens else torch.zeros(3, 0, 4)
    y, _ = layer(x)
    assert y.shape == (3, 0, layer.output_size * layer.num_directions)
    y.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in layer.parameters())
    assert pack(layer)(x)[0].shape == y.shape


def test_a_step_of_no_tokens_gives_no_rows(layer: LSTM) -> None:
    y, state = pack(layer).step(torch.zeros(0, dtype=torch.int64))
    assert y.shape == (0, 6)
    assert state.steps == 1


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("x", [X, torch.tensor([[0, 3], [1, 2], [3, 3]])], ids=["vectors", "tokens"])
def test_a_traced_layer_computes_what_the_loop_does(x: Tensor, layer: LSTM) -> None:
    traced = torch.jit.trace(layer, (x,))
    torch.testing.assert_close(traced(x.flip(0))[0], loop(layer, x.flip(0)))


def test_fake_tensors_take_the_loop() -> None:
    with FakeTensorMode():
        y, (h, _) = fused()(torch.randn(3, 2, 4))
        assert fused()(torch.zeros(3, 2, dtype=torch.int64))[0].shape == (3, 2, 6)
    assert (y.shape, h.shape) == ((3, 2, 6), (1, 2, 6))


@pytest.mark.parametrize("cls", [LSTM, GRU])
def test_a_batch_of_gradients_is_that_of_one_after_the_other(cls: Any) -> None:
    layer = fused(cls)
    x = X.clone().requires_grad_()
    wanted = [x, *layer.parameters()]
    y = layer(x)[0]
    outer = torch.randn(3, *y.shape)
    together = torch.autograd.grad(y, wanted, outer, is_grads_batched=True, retain_graph=True)
    for k, one in enumerate(outer):
        for batch, alone in zip(
            together, torch.autograd.grad(y, wanted, one, retain_graph=True), strict=True
        ):
            torch.testing.assert_close(batch[k], alone, rtol=1e-4, atol=1e-5)


class Reader(torch.nn.Module):
    """A model around a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = fused()

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        y, (h, _) = self.cells(x, state)
        return y.sum() + h.sum()


def test_a_layer_is_one_node_of_a_symbolic_trace() -> None:
    model = Reader()
    graph = torch.fx.symbolic_trace(model)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["cells"]
    state = (torch.ones(1, 2, 6), torch.ones(1, 2, 6))
    torch.testing.assert_close(graph(X, state), model(X, state))
    with pytest.raises(torch.fx.proxy.TraceError, match="trace a module that contains it"):
        torch.fx.symbolic_trace(model.cells)


def test_functional_tensors_do_not_reach_packed_networks(layer: LSTM) -> None:
    # Their memory holds anything: .numpy() reads it without a word.
    packed = pack(layer)
    with pytest.raises(TypeError, match=r"a torch.func transform is active"):
        torch.func.functionalize(lambda x: packed(x)[0])(X)
    with pytest.raises(TypeError, match=r"a torch.func transform is active"):
        torch.func.functionalize(lambda x: x + torch.from_numpy(packed(X.numpy())[0]))(X[..., :1])


@pytest.mark.parametrize("wrap", [lambda x: x.to_sparse(), torch._neg_view, lambda x: x.to("meta")])
def test_a_tensor_that_is_not_its_own_memory_is_not_plain(wrap: Any) -> None:
    assert not is_plain(wrap(X))
    assert is_plain(X)
    assert is_plain(torch.nn.Parameter(X))
    with torch.inference_mode():
        assert is_plain(torch.ones(2))


def test_another_default_device_does_not_matter(layer: LSTM) -> None:
    plain = LSTM(4, 6)
    sequence = PackedSequence(X.flatten(0, 1)[:5], torch.tensor([2, 2, 1]))
    expected = loop(layer, X), loop(plain, sequence).data
    with torch.device("meta"):
        found = layer(X)[0], plain(sequence)[0].data
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("why", ["disabled", "broken", "absent"])
def test_without_numba_torch_runs_the_steps(
    why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, layer: LSTM
) -> None:
    taken = []
    choose = function.choose_steps

    def choose_steps(*arguments: Any) -> Any:
        taken.append(choose(*arguments))
        return taken[-1]

    monkeypatch.setattr("qlstm_core.layers.fused.function.choose_steps", choose_steps)
    import_module("qlstm_core.packed.executor")  # compiled here for all tests, before Numba is told not to
    compiles.cache_clear()
    monkeypatch.setattr(numba.config, "DISABLE_JIT", why == "disabled")
    if why == "absent":
        monkeypatch.setitem(sys.modules, "numba", None)
    if why == "broken":
        monkeypatch.delitem(sys.modules, "numba")
        (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 2.4 or less')")
        monkeypatch.syspath_prepend(tmp_path)
    try:
        if why == "broken":
            with pytest.warns(UserWarning, match=r"torch's operators .*Numba needs NumPy 2.4 or less"):
                compiles()
        torch.testing.assert_close(layer(X)[0], loop(layer, X))
        if why == "disabled":
            with pytest.raises(PluginError, match="NUMBA_DISABLE_JIT is set: unset it"):
                pack(layer)(X)
    finally:
        compiles.cache_clear()
    assert [type(one).__name__ for one in taken] == ["LSTMSteps"]


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_infinities_are_those_of_the_readable_loop(value: float) -> None:
    x = X.clone()
    x[1, 0, 2] = value
    for cls in (LSTM, GRU):
        for mode in (True, False):
            layer = fused(cls).train(mode)
            torch.testing.assert_close(layer(x)[0], loop(layer, x), equal_nan=True)
            state = torch.full((1, 2, 6), value)
            hx = (torch.zeros(1, 2, 6), state) if cls is LSTM else state
            with readable_loop():
                expected = layer(X, hx)[0]
            torch.testing.assert_close(layer(X, hx)[0], expected, equal_nan=True)


def test_hostile_calls_neither_crash_nor_return_rows_that_were_not_given() -> None:
    program = Path(__file__).parents[1] / "support" / "hostile.py"
    found = subprocess.run([sys.executable, program, "300", "1"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    counts = json.loads(found.stdout)
    assert counts["cases"] == counts["answered"] + counts["refused"] >= 300
    assert min(counts["answered"], counts["refused"]) >= 50


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning"
)
def test_the_old_onnx_export_takes_the_loop(layer: LSTM) -> None:
    pytest.importorskip("onnx")
    file = io.BytesIO()
    torch.onnx.export(layer, (X,), file, dynamo=False)
    assert file.getvalue()
