"""Each normaliser against torch's own operator or its formula written out, over random shapes."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qlstm_core import GRU, LSTM, Normalizer, Quantizer, readable_loop, straight_through
from qlstm_core.packed import pack
from qlstm_norm import BatchSeparate, BatchShared, LayerNorm, RMSNorm, WeightNorm

shapes = st.tuples(st.integers(2, 6), st.integers(1, 4), st.integers(2, 7))


def prepared(normalizer: Normalizer, gates: int, rows: int, seed: int = 0) -> Normalizer:
    """Prepare for a side in float64 and shake gains and biases away from their start."""
    torch.manual_seed(seed)
    normalizer.prepare(torch.randn(gates, rows, 3, dtype=torch.float64))
    for parameter in normalizer.parameters():
        parameter.data += torch.randn_like(parameter)
    return normalizer


def activations(shape: tuple[int, int, int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(shape, dtype=torch.float64, generator=generator) + 1


@given(shapes, st.integers(0, 999), st.floats(1e-8, 0.1))
def test_layer_norm_equals_torch_gate_by_gate(shape: tuple[int, int, int], seed: int, eps: float) -> None:
    norm = prepared(LayerNorm(eps=eps), *shape[1:], seed)
    x = activations(shape, seed)
    y = norm(x, 0)
    for k in range(shape[1]):
        expected = torch.nn.functional.layer_norm(x[:, k], shape[2:], norm.gain[k], norm.bias[k], eps)
        torch.testing.assert_close(y[:, k], expected)


@given(shapes, st.integers(0, 999), st.floats(1e-8, 0.1))
def test_rms_norm_is_its_formula(shape: tuple[int, int, int], seed: int, eps: float) -> None:
    norm = prepared(RMSNorm(eps=eps), *shape[1:], seed)
    x = activations(shape, seed)
    y = norm(x, 0)
    for b in range(shape[0]):
        for k in range(shape[1]):
            square = sum(v * v for v in x[b, k].tolist()) / shape[2]
            for j in range(shape[2]):
                expected = norm.gain[k, j] * x[b, k, j] / math.sqrt(square + eps)
                assert y[b, k, j].item() == pytest.approx(expected.item(), rel=1e-10)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(0, 999))
def test_weight_norm_gives_rows_the_length_of_the_gain(gates: int, rows: int, cols: int, seed: int) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(gates, rows, cols, dtype=torch.float64)
    norm = WeightNorm()
    norm.prepare(weight)
    torch.testing.assert_close(norm.weight(weight), weight)
    norm.gain.data.uniform_(0.5, 2)
    quantized = torch.where(weight < 0, -7.0, 7.0).double()
    result = norm.weight(quantized)
    torch.testing.assert_close(result.norm(dim=-1), norm.gain.detach())
    torch.testing.assert_close(result, quantized * (norm.gain / (7 * math.sqrt(cols))).unsqueeze(-1))


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 999))
def test_automatic_gains_give_preactivations_of_unit_variance(inputs: int, hidden: int, seed: int) -> None:
    torch.manual_seed(seed)
    options = {"quantizer": Binary(), "normalizer": "weight:gain=auto", "dtype": torch.float64}
    cell = LSTM(inputs, hidden, tokens=True, **options).prepared_cell(0, 0)
    from_tokens = cell.input(torch.arange(inputs))
    torch.testing.assert_close(from_tokens.square(), torch.ones_like(from_tokens))
    # The variance of W x, x of independent features of unit variance, is the diagonal of W Wᵀ.
    cell = LSTM(inputs, hidden, **options).prepared_cell(0, 0)
    for linear in (cell.input, cell.recurrent):
        variance = (linear.matrix @ linear.matrix.T).diagonal()
        torch.testing.assert_close(variance, torch.ones_like(variance))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("gain=2", (2.0, 2.0, 2.0)),
        ("gain_ih=7,gain_hh=0.5", (7.0, 0.5, 7.0)),
        ("gain=2,gain_hh=auto", (2.0, 1.0, 2.0)),
        ("gain=auto,gain_hh=3", (5.0, 3.0, 1.0)),
        ("gain_ih=auto", (5.0, None, 1.0)),
    ],
)
def test_a_side_of_weight_norm_may_have_a_start_of_its_own(options: str, expected: tuple) -> None:
    """Here of the first layer's two sides on 25 tokens, and of the input's side of the second layer."""
    layer = LSTM(25, 4, 2, normalizer=f"weight:{options}", tokens=True)
    for key, length in zip(("ih_l0", "hh_l0", "ih_l1"), expected, strict=True):
        gain = layer.normalizers[key].gain
        norms = layer.get_parameter(f"weight_{key}").view(4, 4, -1).norm(dim=-1)
        torch.testing.assert_close(gain, norms if length is None else torch.full((4, 4), length))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("gain=0", r"gain must be a positive number, 'auto' or None, got 0\.0"),
        ("gain_hh=inf", "gain_hh must be a positive number, 'auto' or None, got inf"),
        ("gain_ih=atuo", "option 'gain_ih' must be a number or 'auto' or none, got 'atuo'"),
    ],
)
def test_lengths_that_no_row_can_have(options: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LSTM(3, 4, normalizer=f"weight:{options}")
    with pytest.raises(ValueError, match="gain must be a positive number, 'auto' or None, got True"):
        WeightNorm(gain=True)


def test_weight_norm_leaves_rows_of_zeros() -> None:
    norm = WeightNorm(gain=1.0)
    norm.prepare(torch.randn(1, 2, 3))
    weight = torch.tensor([[[0.0, 0.0, 0.0], [3.0, 0.0, 4.0]]], requires_grad=True)
    y = norm.weight(weight)
    torch.testing.assert_close(y[0], torch.tensor([[0.0, 0.0, 0.0], [0.6, 0.0, 0.8]]))
    y.sum().backward()
    assert weight.grad.isfinite().all()


@settings(max_examples=50)
@given(
    shapes,
    st.integers(1, 4),
    st.integers(1, 7),
    st.integers(0, 999),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.booleans(),
)
def test_batch_separate_equals_torch_step_by_step(
    shape: tuple[int, int, int], max_steps: int, steps: int, seed: int, momentum: float, shared: bool
) -> None:
    """Training and evaluation, running statistics, and steps beyond the last that has its own."""
    norm: Normalizer = BatchShared(momentum=momentum)
    if not shared:
        norm = BatchSeparate(max_steps=max_steps, momentum=momentum)
    norm = prepared(norm, *shape[1:], seed)
    rows = 1 if shared else max_steps
    size = shape[1] * shape[2]
    modules = [torch.nn.BatchNorm1d(size, momentum=momentum).double() for _ in range(rows)]
    for module in modules:
        module.weight.data, module.bias.data = norm.gain.data.flatten(), norm.bias.data.flatten()
    for training in (True, True, False):
        norm.train(training)
        for t in range(steps):
            module = modules[min(t, rows - 1)].train(training)
            x = activations(shape, seed + t)
            torch.testing.assert_close(norm(x, t), module(x.flatten(1)).view(shape))
    for k, module in enumerate(modules):
        torch.testing.assert_close(norm.running_mean[k].flatten(), module.running_mean)
        torch.testing.assert_close(norm.running_var[k].flatten(), module.running_var)


@pytest.mark.parametrize("name", ["batch-shared", "batch-separate"])
def test_batch_of_one(name: str) -> None:
    layer = LSTM(3, 4, normalizer=name)
    for alone in (torch.randn(5, 1, 3), torch.randn(5, 3)):
        with pytest.raises(ValueError, match="at least 2 sequences in training, got 1"):
            layer(alone)
    assert layer.eval()(torch.randn(5, 1, 3))[0].shape == (5, 1, 4)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_longest_sequence_alone(bidirectional: bool) -> None:
    """In either direction it is the only one alive for a while, in a batch that is large enough."""
    layer = LSTM(3, 4, normalizer="batch-shared", bidirectional=bidirectional)
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.randn(5, 3, 3), [5, 3, 2])
    assert layer(packed)[0].data.isfinite().all()


def test_step_with_one_sequence_takes_running_statistics() -> None:
    norm = prepared(BatchShared(), 2, 3)
    x = activations((1, 2, 3), 0)
    running = norm.running_mean.clone()
    in_training = norm(x, 1)
    assert torch.equal(norm.running_mean, running)
    assert torch.equal(in_training, norm.eval()(x, 0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BatchSeparate(max_steps=0), "max_steps must be at least 1, got 0"),
        (lambda: BatchShared(momentum=1.5), r"momentum must lie in \[0, 1\], got 1.5"),
        (lambda: BatchShared(eps=0.0), "eps must be positive, got 0.0"),
        (lambda: BatchSeparate(eps=float("nan")), "eps must be positive, got nan"),
    ],
)
def test_bad_options(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]


@pytest.mark.parametrize("name", ["layer", "rms", "batch-shared", "batch-separate"])
def test_initial_gain_is_an_option(name: str) -> None:
    layer = LSTM(3, 4, normalizer=f"{name}:gain=0.25")
    assert layer.normalizers["hh_l0"].gain.unique().tolist() == [0.25]


def test_weight_norm_gain_starts_from_the_rows_or_from_the_option() -> None:
    layer = LSTM(3, 4, quantizer="none", normalizer="weight")
    rows = layer.weight_hh_l0.view(4, 4, 4).norm(dim=-1)
    assert torch.equal(layer.normalizers["hh_l0"].gain, rows)
    constant = LSTM(3, 4, normalizer="weight:gain=0.5").normalizers["ih_l0"].gain
    assert constant.unique().tolist() == [0.5]


def test_only_live_sequences_count_in_batch_statistics() -> None:
    """The batch of a step is what is still alive, in a packed sequence as in a shorter batch."""
    torch.manual_seed(0)
    layer = LSTM(3, 4, normalizer="batch-separate:max_steps=4,momentum=1.0")
    lengths = [4, 4, 2, 2, 2]
    x = torch.randn(4, 5, 3)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths)
    layer(packed)
    by_hand = [x[t, : sum(length > t for length in lengths)] for t in range(4)]
    for t, live in enumerate(by_hand):
        preactivation = live @ layer.weight_ih_l0.T
        mean = layer.normalizers["ih_l0"].running_mean[t].flatten()
        var = layer.normalizers["ih_l0"].running_var[t].flatten()
        torch.testing.assert_close(mean, preactivation.mean(0))
        torch.testing.assert_close(var, preactivation.var(0))


def test_evaluation_uses_and_keeps_running_statistics() -> None:
    torch.manual_seed(0)
    layer = LSTM(3, 4, normalizer="batch-separate:max_steps=3")
    for _ in range(5):
        layer(torch.randn(6, 8, 3))
    layer.eval()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = torch.randn(6, 2, 3)
    together = layer(x)[0]
    alone = layer(x[:, :1])[0]
    torch.testing.assert_close(together[:, :1], alone)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("build", "documented"),
    [
        (LayerNorm, {"gain": 1.0, "eps": 1e-5, "cell": False}),
        (RMSNorm, {"gain": 1.0, "eps": 1e-5, "cell": False}),
        (BatchShared, {"gain": 0.1, "eps": 1e-5, "momentum": 0.1, "cell": False, "steps": 1}),
        (BatchSeparate, {"gain": 0.1, "eps": 1e-5, "momentum": 0.1, "cell": False, "steps": 100}),
    ],
)
def test_documented_defaults(build: type[Normalizer], documented: dict[str, float]) -> None:
    norm = build()
    norm.prepare(torch.randn(2, 3, 4))
    assert torch.equal(norm.gain.detach(), torch.full((2, 3), documented["gain"]))
    for name in documented.keys() - {"gain"}:
        assert getattr(norm, name) == documented[name]
    if build in (BatchShared, BatchSeparate):
        assert norm.running_mean.shape == norm.running_var.shape == (documented["steps"], 2, 3)
    else:
        shown = norm(torch.tensor([[[3.0, 4.0, 5.0], [1.0, 0.0, 0.0]]]), 0)[0, 0, 2].item()
        expected = 1 / math.sqrt(2 / 3 + 1e-5) if build is LayerNorm else 5 / math.sqrt(50 / 3 + 1e-5)
        assert shown == pytest.approx(expected, rel=1e-6)


class Binary(Quantizer):
    """Signs times their mean magnitude."""

    bits, scales = 1, 1

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        scale = weight.detach().abs().mean((1, 2), keepdim=True)
        return straight_through(weight, torch.where(weight < 0, -scale, scale))


class NoRows(Binary):
    """The same, but that every third row is zero, as ternary ones may be."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        kept = (torch.arange(weight.shape[1]) % 3 > 0).to(weight).unsqueeze(-1)
        return straight_through(weight, super().forward(weight).detach() * kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("hidden", [7, 100])
def test_a_constant_row_normalises_to_exactly_zero(hidden: int, dtype: torch.dtype) -> None:
    """With all units alike every gate is constant, and so is the cell state: normalised, all are 0."""
    torch.manual_seed(0)
    layer = LSTM(3, hidden, quantizer=Binary(), normalizer="layer:cell=true", dtype=dtype).eval()
    with torch.no_grad():
        for weight in (layer.weight_ih_l0, layer.weight_hh_l0):
            weight.copy_(weight.view(4, hidden, -1)[:, :1].expand(4, hidden, -1).reshape(weight.shape))
        layer.bias_ih_l0.copy_(torch.tensor([0.3, 0.9, 0.7, 0.1], dtype=dtype).repeat_interleave(hidden))
    x = torch.randn(20, 16, 3, dtype=dtype)
    assert layer.routes()[0].kind == "fused"
    with torch.no_grad():
        assert (layer(x)[0] == 0).all()
        with readable_loop():
            assert (layer(x)[0] == 0).all()
    assert (pack(layer)(x.float())[0] == 0).all()


@pytest.mark.filterwarnings("ignore:RNN module weights")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["layer", "rms", "rms:eps=1e-9", "weight", "batch-shared", "batch-separate"])
@pytest.mark.parametrize("family", [LSTM, GRU])
def test_half_precision_stays_finite_and_close(family: type, name: str, dtype: torch.dtype) -> None:
    """From a state of zeros on, whose square, and eps, half precision cannot tell from 0."""
    torch.manual_seed(0)
    layer = family(4, 6, quantizer=NoRows(), normalizer=name)
    if name.startswith("batch"):
        layer.train()
    x = torch.randn(4, 5, 4)
    expected = layer(x)[0]
    gradients, mixed = [], expected
    if name != "weight":  # which runs torch's own operator, whose half precision not every processor has
        with torch.autocast("cpu", dtype):
            mixed = layer(x)[0]
            mixed.float().square().sum().backward()
        gradients = [p.grad for p in layer.parameters()]
    half = copy.deepcopy(layer).to(dtype)
    y = half(x.to(dtype))[0]
    y.float().square().sum().backward()
    gradients += [p.grad for p in half.parameters()]
    assert y.dtype == dtype
    assert all(gradient.isfinite().all() for gradient in gradients)
    if not name.startswith("rms:"):
        for output in (mixed, y):
            torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("bits", ["uniform:bits=4", "alternating:bits=2", "twn"])
def test_a_layer_in_half_precision_packs_as_it_is(bits: str) -> None:
    torch.manual_seed(0)
    layer = LSTM(4, 16, quantizer=bits, normalizer="weight").bfloat16().eval()
    x = torch.randn(5, 3, 4)
    with torch.no_grad():
        torch.testing.assert_close(pack(layer)(x)[0], layer(x.bfloat16())[0].float(), rtol=0, atol=0.02)


@pytest.mark.parametrize("name", ["weight", "layer", "rms", "batch-shared", "batch-separate"])
def test_a_gain_beyond_the_dtype_is_named(name: str) -> None:
    for gain in ("1e40", "-1e40"):
        with pytest.raises(ValueError, match=r"gain must be"):
            LSTM(2, 3, normalizer=f"{name}:gain={gain}")
    wide = LSTM(2, 3, normalizer=f"{name}:gain=1e40", dtype=torch.float64)
    assert wide.normalizers["ih_l0"].gain.max().item() == 1e40
