"""Quantized drop-ins for torch's Linear and Embedding."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from right_plugins import LearnedSign, RandomSign, RowSign, ScaledSign, WeightedSign
from torch import nn

from qlstm_core import GRU, Embedding, Linear, model_bytes, track_curvature
from qlstm_core.layers.quantized import evaluating

sizes = st.integers(1, 40)


@settings(max_examples=30)
@given(sizes, sizes, sizes, st.booleans(), st.integers(0, 999))
def test_unquantized_linear_is_torchs(inputs: int, outputs: int, batch: int, bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    theirs = nn.Linear(inputs, outputs, bias)
    torch.manual_seed(seed)
    ours = Linear(inputs, outputs, bias)
    x = torch.randn(3, batch, inputs)
    assert torch.equal(ours(x), theirs(x))
    theirs.load_state_dict(ours.state_dict())


@settings(max_examples=30)
@given(sizes, sizes, st.booleans(), st.integers(0, 999))
def test_unquantized_embedding_is_torchs(count: int, features: int, padded: bool, seed: int) -> None:
    padding = 0 if padded else None
    torch.manual_seed(seed)
    theirs = nn.Embedding(count, features, padding)
    torch.manual_seed(seed)
    ours = Embedding(count, features, padding)
    tokens = torch.randint(count, (5, 7))
    assert torch.equal(ours(tokens), theirs(tokens))
    theirs.load_state_dict(ours.state_dict())


@settings(max_examples=30)
@given(sizes, sizes, sizes, st.sampled_from([ScaledSign, RowSign, LearnedSign]), st.integers(0, 999))
def test_layers_compute_with_the_quantized_matrix_of_one_gate(
    rows: int, cols: int, batch: int, method: type, seed: int
) -> None:
    torch.manual_seed(seed)
    linear, embedding = Linear(cols, rows, quantizer=method()), Embedding(rows, cols, quantizer=method())
    x, tokens = torch.randn(batch, cols), torch.randint(rows, (batch,))
    by_hand = linear.quantizer(linear.weight[None])[0]
    torch.testing.assert_close(linear(x), x @ by_hand.T + linear.bias)
    assert linear.quantized_weight().abs().unique().numel() <= (rows if method is RowSign else 1)
    assert torch.equal(embedding(tokens), embedding.quantizer(embedding.weight[None])[0][tokens])


def test_gradients_go_straight_through() -> None:
    linear = Linear(6, 5, quantizer=LearnedSign()).double()
    x = torch.randn(4, 6, dtype=torch.float64)
    d = torch.randn(4, 5, dtype=torch.float64)
    linear(x).backward(d)
    by_hand = nn.Parameter(linear.weight.detach().clone()[None])
    linear.quantizer(by_hand).backward((d.T @ x)[None])
    torch.testing.assert_close(linear.weight.grad, by_hand.grad[0])
    assert linear.quantizer.get_parameter("scale").grad is not None


def test_the_row_of_padding_keeps_full_precision() -> None:
    embedding = Embedding(6, 4, padding_idx=2, quantizer=ScaledSign())
    rows = embedding(torch.arange(6))
    assert torch.equal(rows[2], torch.zeros(4))
    assert len(rows[[0, 1, 3, 4, 5]].abs().unique()) == 1
    rows.sum().backward()
    assert torch.equal(embedding.weight.grad[2], torch.zeros(4))
    assert embedding.storage_bytes() == 3 + 4 + 16  # 24 signs, a scale, a row of float32


def test_sizes_as_deployed() -> None:
    assert Linear(10, 3).storage_bytes() == 4 * 33
    assert Linear(10, 3, quantizer=RowSign()).storage_bytes() == 4 + 12 + 12  # 30 signs, 3 scales, 3 biases
    assert Linear(16, 3, bias=False, quantizer=ScaledSign()).storage_bytes() == 6 + 4
    assert Embedding(8, 4).storage_bytes() == 128


@pytest.mark.parametrize("option", ["sparse", "max_norm"])
def test_what_changes_single_rows_does_not_go_with_a_quantizer(option: str) -> None:
    tokens = torch.tensor([1, 2])
    assert Embedding(4, 3, **{option: True})(tokens).shape == (2, 3)
    with pytest.raises(ValueError, match=f"{option}=.*ScaledSign.*leave one of them out"):
        Embedding(4, 3, **{option: True}, quantizer=ScaledSign())(tokens)


def test_second_moments_reach_the_quantizer() -> None:
    model = nn.Sequential(Embedding(9, 6, quantizer=WeightedSign()), Linear(6, 5, quantizer=WeightedSign()))
    optimizer = torch.optim.Adam(model.parameters())
    track_curvature(model, optimizer)
    model(torch.arange(9)).square().sum().backward()
    optimizer.step()
    for layer in model:
        moment = optimizer.state[layer.weight]["exp_avg_sq"]
        assert moment.max() > 0
        assert torch.equal(layer.curvature, moment)
        expected = layer.quantizer(layer.weight[None], moment[None])[0]
        assert torch.equal(layer.quantized_weight(), expected)


def test_a_layer_is_copied_kept_and_reset() -> None:
    layer = Linear(7, 5, quantizer=LearnedSign())
    scale = layer.quantizer.get_parameter("scale")
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other.quantized_weight(), layer.quantized_weight())
    fresh = Linear(7, 5, quantizer=LearnedSign())
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh.quantized_weight(), layer.quantized_weight())
    layer.reset_parameters()
    assert layer.quantizer.get_parameter("scale") is scale
    assert scale.item() == pytest.approx(layer.weight.abs().mean().item())


def test_constraints_are_applied_to_the_weight() -> None:
    class Clipped(ScaledSign):
        def constrain_(self, weight: torch.Tensor) -> None:
            weight.clamp_(-0.1, 0.1)

    layer = Linear(30, 3, quantizer=Clipped())
    weight = layer.weight
    layer.constrain_()
    assert layer.weight is weight
    assert weight.abs().max().item() == pytest.approx(0.1)


@settings(max_examples=20)
@given(sizes, sizes, st.booleans(), st.integers(0, 999))
def test_to_torch_and_back(inputs: int, outputs: int, flag: bool, seed: int) -> None:
    torch.manual_seed(seed)
    linear = nn.Linear(inputs, outputs, flag).eval()
    words = nn.Embedding(outputs, inputs, 0 if flag else None)
    x, tokens = torch.randn(4, inputs), torch.randint(outputs, (4,))
    for source, cls, given_ in ((linear, Linear, x), (words, Embedding, tokens)):
        ours = cls.from_float(source)
        assert torch.equal(ours(given_), source(given_))
        back = ours.to_float()
        assert type(back) is type(source)
        assert back.training is source.training
        assert all(torch.equal(a, b) for a, b in zip(back.parameters(), source.parameters(), strict=True))
        quantized = cls.from_float(source, quantizer=ScaledSign())
        assert torch.equal(quantized.to_float()(given_), quantized(given_))


def test_names_are_shown() -> None:
    assert repr(Linear(3, 2)) == "Linear(in_features=3, out_features=2, bias=True)"
    assert repr(Embedding(3, 2, quantizer=ScaledSign())) == "Embedding(3, 2, quantizer='ScaledSign')"


def test_the_bytes_of_a_model_are_those_of_its_parts() -> None:
    """A tied weight counts once, a learned scale not at all, whatever else there is at 32 bits."""
    embedding, head = Embedding(8, 4, quantizer=LearnedSign()), Linear(4, 8, quantizer=LearnedSign())
    head.weight = embedding.weight
    layer = GRU(4, 4, quantizer=ScaledSign())
    model = nn.ModuleList([embedding, nn.BatchNorm1d(3), nn.ModuleList([head, layer]), nn.Linear(2, 2)])
    others = 4 * 12 + 4 * 6 + 4 * 8  # gain, bias, mean and variance of 3; weight and bias; the head's bias
    assert model_bytes(model) == (4 + 4) + layer.storage_bytes() + others
    assert model_bytes(model, quantized=False) == 4 * 32 + GRU(4, 4).storage_bytes() + others


def test_the_float_twin_is_not_sampled() -> None:
    for layer in (Linear(20, 30, quantizer=RandomSign()), Embedding(30, 20, quantizer=RandomSign())):
        assert layer.training
        first, second = layer.to_float(), layer.to_float()
        assert torch.equal(first.weight, second.weight)
        assert torch.equal(first.weight, layer.eval().quantized_weight())


def test_pretrained_rows_are_taken_as_torch_takes_them() -> None:
    rows = torch.randn(5, 3)
    embedding = Embedding.from_pretrained(rows)
    assert not embedding.weight.requires_grad
    assert torch.equal(embedding(torch.arange(5)), rows)


def test_a_model_goes_back_to_its_modes() -> None:
    model = nn.Sequential(nn.Dropout().eval(), nn.Linear(2, 2))

    def fail() -> None:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert [module.training for module in model.modules()] == [True, False, True]
