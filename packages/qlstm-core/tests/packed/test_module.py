"""Packed layers as modules of torch: in a float model, and what is refused."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from packed_layers import Features, Sign
from torch import nn

from qlstm_core import GRU, LSTM, model_bytes, pack


class Floats(nn.Module):
    """A float model around a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 6)
        self.rnn = LSTM(6, 8, quantizer=Sign(), normalizer=Features())
        self.head = nn.Linear(8, 9)

    def forward(self, tokens):
        return self.head(self.rnn(self.embedding(tokens))[0])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Floats().eval()


def test_a_packed_layer_takes_the_place_of_the_layer(model):
    tokens = torch.randint(9, (5, 3))
    wanted, before = model(tokens), model_bytes(model)
    model.rnn = pack(model.rnn)
    assert model.rnn in list(model.modules())
    torch.testing.assert_close(model(tokens), wanted, atol=2e-3, rtol=0)
    assert torch.equal(copy.deepcopy(model)(tokens), model(tokens))
    packed, x = pickle.loads(pickle.dumps(model.rnn)), torch.randn(5, 3, 6)
    assert torch.equal(packed(x)[0], model.rnn(x)[0])
    assert model_bytes(model) == before
    assert model_bytes(model, quantized=False) == before + 4 * 32 * (6 + 8) - model.rnn.nbytes + sum(
        array.nbytes for array in model.rnn.network.cells[0].tensors().values()
    )


def test_it_stays_as_it_is_in_training(model):
    model.rnn = pack(model.rnn)
    tokens = torch.randint(9, (5, 3))
    wanted = model(tokens)
    assert not model.train().rnn.training
    assert model.head.training
    assert torch.equal(model(tokens), wanted)
    assert list(model.rnn.parameters()) == []


def test_its_repr_says_what_it_is():
    layer = GRU(6, 8, num_layers=2, quantizer=Sign())
    packed = pack(layer, activation_bits=8)
    said = "PackedGRU(6 inputs, 8 units, 2 layers, quantizer='Sign'"
    assert repr(packed) == f"{said}, {packed.nbytes} bytes, 8-bit tables)"


@pytest.mark.parametrize("family", [LSTM, GRU])
def test_a_gradient_is_refused_where_it_would_pass_through(family):
    packed = pack(family(4, 8, quantizer=Sign()))
    x = torch.randn(5, 2, 4, requires_grad=True)
    wanted = packed(x.detach())
    y, state = packed(x)
    assert torch.equal(y, wanted[0])
    states = state if isinstance(state, tuple) else (state,)
    for output in (y, *states, packed.step(x[0])[0]):
        with pytest.raises(RuntimeError, match=f"a {type(packed).__name__} gives no gradients"):
            output.sum().backward()
    h = torch.zeros(1, 2, 8, requires_grad=True)
    start = h if family is GRU else (h, h)
    with pytest.raises(RuntimeError, match="no gradients"):
        packed(x.detach(), start)[0].sum().backward()
    with torch.no_grad():
        assert not packed(x)[0].requires_grad
    assert not packed(x.detach())[0].requires_grad
    padded = nn.utils.rnn.pack_padded_sequence(x, [5, 3])
    with pytest.raises(RuntimeError, match="no gradients"):
        packed(padded)[0].data.sum().backward()


def test_other_devices_and_dtypes_are_refused(model):
    model.rnn = pack(model.rnn)
    with pytest.raises(RuntimeError, match="a PackedLSTM runs on the CPU and cannot move to meta"):
        model.to("meta")
    with pytest.raises(RuntimeError, match=r"computes in float32 and cannot become torch\.float64"):
        model.rnn.double()
    assert model.rnn.to("cpu").float() is model.rnn


def test_state_dicts_are_refused(model):
    saved = model.state_dict()
    model.rnn = pack(model.rnn)
    with pytest.raises(RuntimeError, match="rnn: a PackedLSTM has no state_dict, its weights are bits"):
        model.state_dict()
    with pytest.raises(RuntimeError, match="rnn: a PackedLSTM takes no parameters: load them into the float"):
        model.load_state_dict(saved, strict=False)
