"""Whole packed models against the float models that they were made from."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_layers import Batch, Features, Grid, Plain, RowLength, Sign, Ternary, layers
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from qlstm_core import (
    GRU,
    LSTM,
    BitPlanes,
    Embedding,
    FactorizedLSTM,
    GroupedLSTM,
    InitialState,
    Linear,
    PackedLSTM,
    PackedModel,
    Quantizer,
    Vocabulary,
    load_packed,
    model_bytes,
    pack,
)
from qlstm_core.packed import PackedFileError
from qlstm_core.packed.executor import Product, Rows
from qlstm_core.packed.network import Bits


class Levels(Quantizer):
    """A grid of as many bits as asked for, with a step for each row or for all."""

    scales = 1

    def __init__(self, bits: int, per_row: bool = True) -> None:
        super().__init__()
        self.bits, self.per_row = bits, per_row

    def bitplanes(self, weight, curvature=None):
        highest = 2 ** (self.bits - 1) - 1
        step = (weight.abs().amax(-1) if self.per_row else weight.abs().amax((1, 2)).unsqueeze(-1)) / highest
        return BitPlanes.from_uniform((weight / step.unsqueeze(-1)).round(), step, self.bits)

    def forward(self, weight, curvature=None):
        return self.bitplanes(weight).dense().to(weight)


QUANTIZERS = [lambda: "none", Sign, Plain, Ternary, Grid, lambda: Levels(2), lambda: Levels(8)]
QUANTIZERS += [lambda: Levels(3, per_row=False)]


class Words(nn.Module):
    """A language model with or without an embedding, as the papers have it."""

    def __init__(self, tokens, embedding, recurrent, head, start=None, outcome=None):
        super().__init__()
        self.embedding, self.recurrent, self.start = embedding, nn.ModuleList(recurrent), start
        self.dropout = nn.Dropout(0.5)
        self.head = head
        self.outcome = outcome
        self.tokens = tokens

    def packed_stages(self):
        first = [] if self.embedding is None else [self.embedding, self.dropout]
        start = [] if self.start is None else [self.start]
        last = [] if self.outcome is None else [self.outcome]
        return [*first, *start, *self.recurrent, self.dropout, self.head, *last]

    def forward(self, x, states=None):
        count = len(self.recurrent)
        given = [None] * count if states is None else [states] if count == 1 else list(states)
        y = x if self.embedding is None else on_rows(self.embedding, x)
        finals = []
        for layer, state in zip(self.recurrent, given, strict=True):
            if state is None and self.start is not None and not finals:
                state = self.begin(y, layer.batch_first)
            y, final = layer(y, state)
            finals.append(final)
        y = on_rows(self.head, y)
        if self.outcome is not None:
            y = on_rows(self.outcome, y)
        return y, finals[0] if count == 1 else tuple(finals)

    def begin(self, y, batch_first):
        if isinstance(y, PackedSequence):
            return self.start(int(y.batch_sizes[0]))
        if y.dim() == (2 if y.is_floating_point() else 1):
            state = self.start(1)
            state = state if isinstance(state, tuple) else (state,)
            squeezed = tuple(part.squeeze(1) for part in state)
            return squeezed if len(squeezed) > 1 else squeezed[0]
        return self.start(y.shape[0 if batch_first else 1])


def on_rows(function, x):
    return x._replace(data=function(x.data)) if isinstance(x, PackedSequence) else function(x)


def exact(model: nn.Module) -> nn.Module:
    """The model in eval() and float64, with the weights as its quantizers give them in float32."""
    copied = copy.deepcopy(model).eval()
    with torch.no_grad():
        for module in copied.modules():
            if isinstance(module, Embedding | Linear):
                module.weight = nn.Parameter(module.quantized_weight().clone())
                module.quantizer = type(Linear(1, 1).quantizer)()
            elif hasattr(module, "layer_directions"):
                for index, direction in module.layer_directions():
                    suffix = f"_l{index}{'_reverse' if direction else ''}"
                    for key, weight in module.quantized_weights(index, direction).items():
                        module.get_parameter(f"weight_{key}{suffix}").copy_(weight.flatten(0, 1))
                module.quantizers = nn.ModuleDict()
    return copied.double()


@st.composite
def models(draw: st.DrawFn, *, streams: bool = False) -> Words:
    """Models of one or two recurrent layers, or of two that are stacked by hand."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    first = draw(layers().filter(lambda layer: not (streams and layer.bidirectional)))
    tokens = first.input_size
    embedding = None
    if draw(st.booleans()):
        tokens = draw(st.sampled_from([1, 2, 7, 70]))
        quantizer = draw(st.sampled_from(QUANTIZERS))()
        padding = draw(st.sampled_from([None, 0]))
        embedding = Embedding(tokens, first.input_size, padding, quantizer=quantizer)
        if padding is not None:
            with torch.no_grad():
                embedding.weight[0] = torch.randn(first.input_size)
    recurrent = [first]
    size = first.output_size * first.num_directions
    if draw(st.integers(0, 4)) == 0:
        family = draw(st.sampled_from([LSTM, GRU, nn.LSTM, nn.GRU]))
        ours = {} if family.__module__.startswith("torch") else {"quantizer": Ternary()}
        recurrent.append(family(size, 5, batch_first=first.batch_first, **ours))
        size = 5
    start = None
    if draw(st.booleans()):
        start = InitialState(first)
        with torch.no_grad():
            for part in start.parameters():
                part.normal_()
    outputs = draw(st.sampled_from([tokens, 1, 65, 130]))
    bias = draw(st.booleans())
    head = Linear(size, outputs, bias, quantizer=draw(st.sampled_from(QUANTIZERS))())
    outcome = draw(st.sampled_from([None, None, nn.Softmax(-1), nn.LogSoftmax(-1)]))
    return Words(tokens, embedding, recurrent, head, start, outcome)


def random_input(draw: st.DrawFn, model: Words) -> Any:
    steps, batch = draw(st.integers(1, 6)), draw(st.sampled_from([1, 2, 3, 9, 20]))
    form = draw(st.sampled_from(["batched", "batched", "unbatched", "packed"]))
    batch_first = model.recurrent[0].batch_first
    shape = (steps,) if form == "unbatched" else (batch, steps) if batch_first else (steps, batch)
    if model.embedding is None and draw(st.booleans()):
        x = torch.randn(*shape, model.tokens)
    else:
        x = torch.randint(model.tokens, shape)
    if form == "packed":
        lengths = [steps, *draw(st.lists(st.integers(1, steps), min_size=batch - 1, max_size=batch - 1))]
        x = pack_padded_sequence(x, lengths, batch_first=batch_first, enforce_sorted=False)
    return x


def in_float64(x: Any) -> Any:
    return on_rows(lambda values: values.double() if values.is_floating_point() else values, x)


def flat(result: Any) -> list[torch.Tensor]:
    if isinstance(result, PackedSequence):
        return [result.data]
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for part in result for tensor in flat(part)]


@given(st.data())
@settings(deadline=None, max_examples=100)
def test_every_form_computes_what_the_model_computes(data):
    model = data.draw(models())
    x = random_input(data.draw, model)
    packed = pack(model, activation_bits=16)
    with torch.no_grad():
        wanted = exact(model)(in_float64(x))
        found = packed(x)
        assert type(found[0]) is type(wanted[0])
        again, more = packed(x, found[1]), exact(model)(in_float64(x), wanted[1])
    for ours, theirs in zip(flat((found, again)), flat((wanted, more)), strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == torch.float32
        assert torch.allclose(ours.double(), theirs, rtol=2e-3, atol=5e-3)


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_steps_give_what_the_sequence_gives(data):
    model = data.draw(models(streams=True))
    batch = data.draw(st.sampled_from([None, 1, 3]))
    shape = (5,) if batch is None else (5, batch)
    x = torch.randint(model.tokens, shape)
    if model.embedding is None and data.draw(st.booleans()):
        x = torch.randn(*shape, model.tokens)
    packed = pack(model)
    turned = model.recurrent[0].batch_first and batch is not None
    y, final = packed(x.transpose(0, 1) if turned else x)
    state = None
    for x_t, y_t in zip(x, y.transpose(0, 1) if turned else y, strict=True):
        found, state = packed.step(x_t, state)
        torch.testing.assert_close(found, y_t, rtol=1e-5, atol=1e-6)  # float heads are torch's
    assert state.steps == 5
    for ours, theirs in zip(flat(tuple(state)), flat(final), strict=True):
        assert torch.equal(ours, theirs)
    saved = pickle.loads(pickle.dumps(state))
    wanted = packed.step(x[0], state.clone())[0]
    assert torch.equal(packed.step(x[0], saved)[0], wanted)
    assert torch.equal(packed.step(x[0], packed.stream(final, 5))[0], wanted)
    assert np.array_equal(packed.step(x[0].numpy(), state)[0], wanted.numpy())


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_products_and_rows_are_those_of_the_dense_weight(data):
    """Each of 1 to 8 planes, rows beyond 64, columns beyond a group, more vectors than go at a time."""
    rows, cols = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 130))
    quantizer = data.draw(st.sampled_from([Sign(), Plain(), Ternary(), *map(Levels, range(2, 9))]))
    count = data.draw(st.sampled_from([0, 1, 8, 9, 40]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    planes = quantizer.bitplanes(torch.randn(1, rows, cols, generator=generator))
    bits, dense = Bits.of(planes), planes.dense()[0]
    tokens = torch.randint(rows, (count,), generator=generator)
    assert np.array_equal(Rows(bits)(tokens.numpy()), dense[tokens].numpy())
    x, bias = torch.randn(count, cols, generator=generator), torch.randn(rows, generator=generator)
    found = torch.from_numpy(Product(bits, bias.numpy(), 16)(x.numpy()))
    wanted = x.double() @ dense.double().T + bias.double()
    size = x.abs().amax(-1, keepdim=True) * dense.abs().sum(-1) + 1
    assert ((found - wanted).abs() <= 2e-4 * size).all()


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_a_saved_model_comes_back_whole(data):
    model = data.draw(models())
    symbols = [chr(0x100 + k) for k in range(model.tokens)]
    packed = pack(model, vocabulary=Vocabulary(symbols))
    file = io.BytesIO()
    packed.save(file)
    header = int.from_bytes(file.getvalue()[:8], "little")
    assert len(file.getvalue()) == 8 + header + packed.nbytes
    file.seek(0)
    again = load_packed(file)
    assert isinstance(again, PackedModel)
    assert again.vocabulary == packed.vocabulary
    assert repr(again) == repr(packed)
    x = random_input(data.draw, model)
    for other in (again, copy.deepcopy(packed)):
        for ours, theirs in zip(flat(other(x)), flat(packed(x)), strict=True):
            assert torch.equal(ours, theirs)
    assert (again.nbytes, again.float32_nbytes) == (packed.nbytes, packed.float32_nbytes)


def language_model(tokens=70, *, outcome=None, **options):
    torch.manual_seed(0)
    layer = LSTM(24, 40, num_layers=2, quantizer=Sign(), normalizer=Features(), **options)
    embedding = Embedding(tokens, 24, quantizer=Levels(4))
    head = Linear(40, tokens, quantizer=Levels(8))
    with torch.no_grad():
        head.weight.mul_(12)  # so that some tokens are far likelier than others
    return Words(tokens, embedding, [layer], head, outcome=outcome).eval()


def test_bytes_are_those_of_the_model():
    model = language_model()
    packed = pack(model)
    assert packed.nbytes == model_bytes(model) == model_bytes(packed)
    assert packed.float32_nbytes == model_bytes(packed, quantized=False)
    dense = sum(p.numel() for name, p in model.named_parameters() if "weight" in name)
    others = packed.nbytes - sum(
        matrix.nbytes for matrix in packed.chain.matrices() if isinstance(matrix, Bits)
    )
    assert packed.float32_nbytes == 4 * dense + others
    plain = Words(70, nn.Embedding(70, 24), [LSTM(24, 40, quantizer=Sign())], nn.Linear(40, 70))
    assert pack(plain).nbytes == model_bytes(plain)


def test_a_sequence_of_modules_lists_its_stages_itself():
    torch.manual_seed(0)
    inner = nn.Sequential(Embedding(9, 6, quantizer=Sign()), nn.Dropout())
    model = nn.Sequential(inner, LSTM(6, 8, quantizer=Ternary()), nn.Identity(), Linear(8, 9))
    packed = pack(model.eval())
    tokens = torch.randint(9, (5, 3))
    with torch.no_grad():
        y, state = model[1](inner(tokens))
        torch.testing.assert_close(packed(tokens)[0], model[3](y), atol=5e-3, rtol=0)
        assert [stage.name for stage in packed.chain.stages] == ["0.0", "1", "3"]
    torch.testing.assert_close(packed(tokens)[1][0], state[0], atol=5e-3, rtol=0)


def test_sequences_and_streams_begin_from_the_learned_state():
    torch.manual_seed(0)
    layer = LSTM(9, 8, quantizer=Sign())
    start = InitialState(layer)
    with torch.no_grad():
        for part in start.parameters():
            part.normal_()
    model = Words(9, None, [layer], Linear(8, 9), start).eval()
    tokens = torch.randint(9, (4, 3))
    packed = pack(model, 16)
    with torch.no_grad():
        wanted = model(tokens)[0]
    torch.testing.assert_close(packed(tokens)[0], wanted, atol=1e-3, rtol=0)
    torch.testing.assert_close(packed.step(tokens[0])[0], wanted[0], atol=1e-3, rtol=0)


def test_what_is_packed_already_is_a_stage():
    model = language_model()
    wanted = pack(model)
    model.recurrent[0] = pack(model.recurrent[0])
    tokens = torch.randint(70, (5, 3))
    assert torch.equal(pack(model)(tokens)[0], wanted(tokens)[0])


def test_a_shared_weight_is_stored_once():
    torch.manual_seed(0)
    model = Words(70, Embedding(70, 40, quantizer=Levels(4)), [LSTM(40, 40, quantizer=Sign())], None)
    model.head = Linear(40, 70, quantizer=Levels(4))
    apart = pack(model)
    model.head.weight = model.embedding.weight
    packed = pack(model.eval())
    assert packed.nbytes == apart.nbytes - packed.chain.stages[0].matrix.nbytes
    assert packed.float32_nbytes == apart.float32_nbytes - 4 * 70 * 40
    file = io.BytesIO()
    packed.save(file)
    assert len(file.getvalue()) < packed.nbytes + 3000
    file.seek(0)
    again = PackedModel.load(file)
    assert again.chain.stages[0].matrix is again.chain.stages[2].matrix
    tokens = torch.randint(70, (5, 3))
    with torch.no_grad():
        torch.testing.assert_close(again(tokens)[0], model(tokens)[0], atol=1e-2, rtol=0)
        assert torch.equal(again(tokens)[0], packed(tokens)[0])


def test_an_array_gives_arrays():
    packed = pack(language_model())
    tokens = np.random.default_rng(0).integers(70, size=(5, 3))
    y, (h, c) = packed(tokens)
    wanted, _ = packed(torch.from_numpy(tokens))
    assert np.array_equal(y, wanted.numpy())
    assert isinstance(h, np.ndarray)
    assert isinstance(c, np.ndarray)
    assert np.array_equal(
        packed.generate(tokens, 4, seed=1), packed.generate(torch.tensor(tokens), 4, seed=1)
    )


def test_a_model_has_no_gradients_either():
    packed = pack(Words(4, None, [LSTM(4, 8, quantizer=Sign())], Linear(8, 3)))
    x = torch.randn(5, 2, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="a PackedModel gives no gradients"):
        packed(x)[0].sum().backward()
    with pytest.raises(RuntimeError, match="PackedModel has no state_dict"):
        packed.state_dict()
    assert not packed.train().training


# What it writes


def continued(model, tokens, n, temperature, top_k, seed):
    """What the float model goes on with: a whole call for each token."""
    generator = torch.Generator().manual_seed(seed)
    text = tokens
    with torch.no_grad():
        for _ in range(n):
            logits = model(text)[0][-1]
            if temperature == 0:
                token = logits.argmax(-1)
            else:
                kept, candidates = logits.topk(top_k) if top_k else (logits, None)
                scaled = (kept - kept.amax(-1, keepdim=True)) / temperature
                chosen = torch.multinomial(scaled.softmax(-1), 1, generator=generator)
                token = (chosen if candidates is None else candidates.gather(-1, chosen)).squeeze(-1)
            text = torch.cat([text, token.unsqueeze(0)])
    return text[len(tokens) :]


@pytest.mark.parametrize("shape", [(3,), (3, 2)])
@pytest.mark.parametrize(("temperature", "top_k"), [(0, None), (1.0, None), (0.7, 5)])
def test_generated_tokens_are_those_of_the_float_model(shape, temperature, top_k):
    """With weights as float32 they come from the same logits; with bits, from logits within the rounding."""
    model = language_model()
    tokens = torch.randint(70, shape)
    wanted = continued(model, tokens, 30, temperature, top_k, seed=3)
    packed = pack(model, activation_bits=16)
    same = PackedModel(packed.chain.with_floats(), 16)
    assert torch.equal(same.generate(tokens, 30, temperature, top_k, seed=3), wanted)
    found = packed.generate(tokens, 30, temperature, top_k, seed=3)
    assert found.shape == wanted.shape
    with torch.no_grad():
        given = torch.cat([tokens, found])
        along = model(given)[0][len(tokens) - 1 : -1]
        rounded = packed(given)[0][len(tokens) - 1 : -1]
    torch.testing.assert_close(rounded, along, atol=2e-2, rtol=0)
    if temperature == 0:
        behind = along.amax(-1) - along.gather(-1, found.unsqueeze(-1)).squeeze(-1)
        assert (behind <= 4e-2).all()


def test_draws_have_the_distribution_of_the_float_model():
    """χ² of 20,000 first tokens against softmax(logits / temperature), those rarer than 5 in one bin."""
    model = language_model(9)
    prompt, n = torch.tensor([1, 4]), 20_000
    found = pack(model).generate(prompt.unsqueeze(1).expand(2, n).contiguous(), 1, 0.8, seed=11)
    with torch.no_grad():
        expected = n * (model(prompt)[0][-1].double() / 0.8).softmax(-1).numpy()
    counted = np.bincount(found[0].numpy(), minlength=9)
    rare = expected < 5
    if rare.any():
        counted = np.append(counted[~rare], counted[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    assert len(expected) > 4
    square = ((counted - expected) ** 2 / expected).sum()
    freedom = len(expected) - 1
    assert torch.special.gammaincc(torch.tensor(freedom / 2), torch.tensor(square / 2)) > 1e-3


@pytest.mark.parametrize("outcome", [nn.Softmax(-1), nn.LogSoftmax(-1)])
def test_probabilities_are_drawn_from_as_logits_are(outcome):
    plain, other = pack(language_model()), pack(language_model(outcome=outcome))
    tokens = torch.tensor([3, 5])
    assert torch.equal(plain.generate(tokens, 20, seed=2), other.generate(tokens, 20, seed=2))


def test_the_seed_decides_and_batches_come_first_where_the_layer_has_them_first():
    packed, turned = pack(language_model()), pack(language_model(batch_first=True))
    tokens = torch.randint(70, (3, 4))
    found = packed.generate(tokens, 6, seed=5)
    assert torch.equal(turned.generate(tokens.T.contiguous(), 6, seed=5), found.T)
    assert not torch.equal(packed.generate(tokens, 6, seed=6), found)
    assert packed.generate(tokens, 0, seed=5).shape == (0, 4)
    assert turned.generate(tokens.T.contiguous(), 0).shape == (4, 0)
    one = packed.sample(tokens, seed=5)
    assert torch.equal(torch.stack([next(one) for _ in range(6)]), found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -0.1}, "temperature must be a finite number from 0, got -0.1"),
        ({"temperature": float("nan")}, "temperature must be a finite number from 0, got nan"),
        ({"top_k": 0}, "top_k must be a whole number from 1 to 70, the tokens, got 0"),
        ({"top_k": 71}, "top_k must be a whole number from 1 to 70"),
        ({"n": -1}, "n must be a whole number from 0, got -1"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"tokens": torch.zeros(0, dtype=torch.int64)}, r"at least one step of integers, .* shape \(0,\)"),
        ({"tokens": torch.zeros(3)}, r"at least one step of integers, .* got torch\.float32"),
        ({"tokens": torch.tensor([70])}, r"tokens must lie in \[0, 70\), got 70 to 70"),
        ({"tokens": torch.tensor([-1])}, r"tokens must lie in \[0, 70\), got -1 to -1"),
    ],
)
def test_what_cannot_be_generated_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        pack(language_model()).generate(**{"tokens": torch.tensor([1]), "n": 1, **arguments})


def test_a_model_that_predicts_no_tokens_does_not_generate():
    packed = pack(Words(7, None, [LSTM(7, 8, quantizer=Sign())], Linear(8, 3)))
    with pytest.raises(ValueError, match="takes 7 tokens and gives 3 scores"):
        packed.generate(torch.tensor([1]), 1)
    both = pack(Words(7, None, [LSTM(7, 8, bidirectional=True, quantizer=Sign())], Linear(16, 7)))
    with pytest.raises(ValueError, match="bidirectional network reads whole sequences"):
        both.generate(torch.tensor([1]), 1)


# What cannot be packed


class Other(nn.Module):
    """Does something else."""


class TwoHeads(nn.Linear):
    """Has a forward of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


class ManyLevels(Quantizer):
    """Has too many levels for bit planes."""

    bits = 12

    def forward(self, weight, curvature=None):
        return (weight * 1e5).round() / 1e5


def listing(*modules):
    """A model whose stages these are, called as their class."""
    model = nn.Module()
    for module in modules:
        name = type(module).__name__.lower()
        if isinstance(module, nn.Module) and not hasattr(model, name):
            model.add_module(name, module)
    model.packed_stages = lambda: list(modules)
    return model


def recurrent(size=4):
    return LSTM(size, 8, quantizer=Sign())


def tied():
    embedding, head = Embedding(9, 8, quantizer=Sign()), Linear(8, 9, quantizer=Levels(8))
    head.weight = embedding.weight
    return listing(embedding, LSTM(8, 8, quantizer=Sign()), head)


def noisy():
    layer = recurrent()
    return listing(InitialState(layer, noise=0.1), layer)


def diverged():
    head = Linear(8, 9)
    with torch.no_grad():
        head.weight[2, 3] = torch.nan
    return listing(recurrent(), head)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (Other, TypeError, r"a model with a method packed_stages\(\).*; got \S+\.Other"),
        (lambda: nn.LSTM(4, 8), TypeError, r"got torch\.nn\.modules\.rnn\.LSTM"),
        (lambda: 3, TypeError, "another module, got int"),
        (lambda: listing(recurrent(), Other()), TypeError, "stage 'other' cannot be packed: it is a .*Other"),
        (lambda: listing(recurrent(), nn.ReLU()), TypeError, "stage 'relu' .*pack the recurrent layer alone"),
        (lambda: listing(recurrent(), TwoHeads(8, 9)), TypeError, "'twoheads'.*a forward of its own"),
        (
            lambda: listing(recurrent(), Linear(8, 90, quantizer=ManyLevels())),
            ValueError,
            "stage 'linear'.*ManyLevels of linear.weight",
        ),
        (
            lambda: listing(LSTM(4, 80, quantizer=ManyLevels())),
            ValueError,
            "stage 'lstm' cannot be packed: quantizer ManyLevels",
        ),
        (lambda: listing(recurrent(), nn.Softmax(0)), ValueError, "'softmax' is a Softmax over dimension 0"),
        (lambda: listing(nn.Embedding(9, 4, max_norm=1.0), recurrent()), ValueError, "'embedding'.*max_norm"),
        (
            lambda: listing(recurrent(), Embedding(9, 4)),
            ValueError,
            "'embedding' takes tokens, and stage 'lstm'",
        ),
        (
            lambda: listing(recurrent(), Linear(7, 9)),
            ValueError,
            "'lstm' gives 8 features, and stage 'linear' after it takes 7",
        ),
        (
            lambda: listing(Embedding(9, 4, quantizer=Sign()), Linear(4, 9)),
            ValueError,
            "embedding, linear, and none of them is recurrent",
        ),
        (lambda: listing(), ValueError, "the stages are none, and none of them is recurrent"),
        (lambda: listing(LSTM(4, 8), Linear(8, 4)), ValueError, "nothing to pack: every weight of the model"),
        (
            tied,
            ValueError,
            r"stage 'linear'.*that of 'embedding' too, where its quantizer is Sign.*one quantizer",
        ),
        (noisy, ValueError, "'initialstate', adds noise.*set initialstate.noise_in_eval = False"),
        (
            lambda: listing(InitialState(recurrent()), Linear(4, 4)),
            ValueError,
            "'initialstate' is the state of a recurrent layer, but 'linear' follows",
        ),
        (lambda: listing(recurrent(), InitialState(recurrent())), ValueError, "but none follows"),
        (
            lambda: listing(InitialState(recurrent(), 0.0), GRU(4, 8, quantizer=Sign())),
            ValueError,
            r"begins from states of .*, expected \[\(1, 8\)\]",
        ),
        (diverged, ValueError, "'linear' cannot be packed: weight holds values that are not finite"),
        (
            lambda: listing(recurrent(), Linear(8, 9, device="meta")),
            ValueError,
            "'linear' has no weights yet",
        ),
        (lambda: listing(recurrent(), nn.LazyLinear(9)), ValueError, "'lazylinear' has no weights yet"),
        (lambda: listing(3), TypeError, "returned int at place 0"),
    ],
)
def test_what_cannot_be_packed_is_named(make, error, message):
    with pytest.raises(error, match=message):
        pack(make())


def test_a_model_that_lists_itself_is_refused():
    model = nn.Module()
    model.packed_stages = lambda: [model]
    with pytest.raises(TypeError, match="returned the model itself at place 0"):
        pack(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: pack(language_model(), vocabulary=Vocabulary("abc")),
            "3 symbols does not fit stage 'embedding'.* 70",
        ),
        (
            lambda: pack(listing(nn.Linear(3, 4), recurrent()), vocabulary=Vocabulary("abc")),
            "takes no tokens",
        ),
        (lambda: pack(language_model(), activation_bits=10), "activation_bits must be one of"),
        (lambda: pack(language_model())(torch.tensor([[70]])), r"tokens must lie in \[0, 70\), got 70 to 70"),
        (lambda: pack(language_model())(torch.ones(3, 1)), "tokens are int32 or int64, got torch.float32"),
        (
            lambda: pack(listing(recurrent(), GRU(8, 3, quantizer=Sign())))(torch.ones(3, 1, 4), (None,)),
            "the model has 2 recurrent layers, and 1 states",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
    with pytest.raises(TypeError, match="a vocabulary belongs to a whole model"):
        pack(recurrent(), vocabulary=Vocabulary("abcd"))


def test_packing_leaves_the_model_as_it_is():
    model = language_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pack(model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_layer_and_a_model_are_told_apart_in_files(tmp_path):
    pack(language_model()).save(tmp_path / "model.safetensors")
    pack(recurrent()).save(tmp_path / "layer.safetensors")
    with pytest.raises(PackedFileError, match=r"model\.safetensors: holds a PackedModel, not a PackedLSTM"):
        PackedLSTM.load(tmp_path / "model.safetensors")
    with pytest.raises(PackedFileError, match=r"layer\.safetensors: holds a recurrent layer alone"):
        PackedModel.load(tmp_path / "layer.safetensors")


@pytest.mark.parametrize("family", [FactorizedLSTM, GroupedLSTM])
def test_the_rounding_error_of_a_model_is_that_of_its_scores(family):
    torch.manual_seed(0)
    options = {"rank": 4} if family is FactorizedLSTM else {"groups": 2}
    layer = family(24, 40, quantizer=Ternary(), normalizer=RowLength(), **options)
    model = Words(24, None, [layer], Linear(40, 24, quantizer=Levels(8))).eval()
    x = torch.randn(10, 3, 24)
    packed = pack(model, 8)
    with torch.no_grad():
        wanted = model(x)[0]
    error = float((packed(x)[0] - wanted).norm() / wanted.norm())
    assert packed.rounding_error(x) == pytest.approx(error, rel=1e-2)
    assert pack(model, 16).rounding_error(x) < error / 50


def test_statistics_of_each_step_are_counted_on():
    """What a prompt has read counts as steps."""
    torch.manual_seed(0)
    model = Words(9, None, [LSTM(9, 8, quantizer=Sign(), normalizer=Batch())], Linear(8, 9)).eval()
    tokens = torch.randint(9, (2,))
    wanted = continued(model, tokens, 8, 0, None, 0)
    assert torch.equal(pack(model, 16).generate(tokens, 8, 0), wanted)
