"""Float models become models with quantized weights, and layers go to torch and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from right_plugins import BatchNorm, FeatureNorm, LearnedSign, RowSign, ScaledSign, UnitRows
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_sequence

from qlstm_core import GRU, LSTM, Embedding, FactorizedLSTM, Linear, convert, record_states


class SharedBatchNorm(BatchNorm):
    """Statistics that all steps share."""

    steps = 1


class Recurrent(nn.Module):
    """A stage that drops the state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.layer(x)
        return y  # type: ignore[no-any-return]


class Model(nn.Module):
    """Words in, stages of the same width, words out, by the same weight; one stage may come twice."""

    def __init__(self, words: int, width: int, stages: list[nn.Module], tied: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(width, words)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.stages(self.words(tokens)))  # type: ignore[no-any-return]


@st.composite
def models(draw: st.DrawFn) -> Model:
    torch.manual_seed(draw(st.integers(0, 999)))
    half = draw(st.integers(1, 6))
    width = 2 * half

    def stage() -> nn.Module:
        kind = draw(st.sampled_from(["linear", "lstm", "gru", "projected", "both ways", "nested"]))
        layers = draw(st.integers(1, 2))
        bias = draw(st.booleans())
        if kind == "linear":
            return nn.Linear(width, width, bias)
        if kind == "nested":
            return nn.Sequential(nn.Tanh(), nn.ModuleDict({"inner": nn.Linear(width, width)})["inner"])
        family = nn.GRU if kind == "gru" else nn.LSTM
        options: dict[str, Any] = {"lstm": {}, "gru": {}}.get(kind, {})
        hidden = half if kind == "both ways" else width + 3 if kind == "projected" else width
        if kind == "projected":
            options = {"proj_size": width}
        if kind == "both ways":
            options = {"bidirectional": True}
        return Recurrent(family(width, hidden, layers, bias, **options))

    stages = [stage() for _ in range(draw(st.integers(1, 3)))]
    if draw(st.booleans()):
        stages.append(stages[0])
    return Model(draw(st.integers(2, 9)), width, stages, draw(st.booleans()))


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@settings(max_examples=25)
@given(models(), st.booleans())
def test_a_converted_model_without_quantizer_gives_the_float_models_numbers(
    model: Model, inplace: bool
) -> None:
    tokens = torch.randint(len(model.words.weight), (5, 3))
    expected = model(tokens)
    shared = [id(p) for p in model.parameters()] if inplace else None
    parameters = len(list(model.parameters()))
    converted, report = convert(model, inplace=inplace)
    torch.testing.assert_close(converted(tokens), expected, rtol=1e-6, atol=1e-6)
    assert not report.skipped
    assert not [m for m in converted.modules() if type(m) in (nn.LSTM, nn.GRU, nn.Linear, nn.Embedding)]
    # What is shared stays shared: as many parameters, and in place the very same ones.
    assert len(list(converted.parameters())) == parameters
    if inplace:
        assert converted is model
        assert [id(p) for p in converted.parameters()] == shared
    else:
        assert type(model.head) is nn.Linear


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@settings(max_examples=25)
@given(
    st.sampled_from([(nn.LSTM, LSTM), (nn.GRU, GRU)]),
    st.integers(1, 6), st.integers(1, 6), st.integers(1, 2), st.booleans(), st.booleans(), st.booleans(),
    st.integers(0, 99),
)  # fmt: skip
def test_to_torch_and_back_is_the_identity(
    families: Any, inputs: int, hidden: int, layers: int, bias: bool, first: bool, both: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    theirs, ours = families
    options: dict[str, Any] = {"bias": bias, "batch_first": first, "bidirectional": both}
    if theirs is nn.LSTM and hidden > 1 and seed % 2:
        options["proj_size"] = hidden - 1
    source = theirs(inputs, hidden, layers, **options).eval()
    source.weight_hh_l0.requires_grad_(False)
    state = torch.random.get_rng_state()
    layer = ours.from_float(source)
    assert torch.equal(torch.random.get_rng_state(), state)
    back = layer.to_float()
    assert repr(back) == repr(source)
    assert back.training is layer.training is False
    for (name, one), (other_name, other) in zip(
        back.named_parameters(), source.named_parameters(), strict=True
    ):
        assert name == other_name
        assert torch.equal(one, other)
        assert one.requires_grad is other.requires_grad
    quantized = ours.from_float(source, quantizer=ScaledSign())
    x = torch.randn(4, 3, inputs)
    torch.testing.assert_close(quantized.to_float()(x)[0], quantized(x)[0], rtol=1e-5, atol=1e-6)


def test_what_folds_into_weights_goes_to_torch() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 5, 4)
    for normalizer in (UnitRows(), SharedBatchNorm()):
        layer = LSTM(4, 7, 2, quantizer=ScaledSign(), normalizer=normalizer, bidirectional=True)
        for _ in range(3):
            layer(x)
        layer.eval()
        torch.testing.assert_close(layer.to_float()(x)[0], layer(x)[0], rtol=1e-4, atol=1e-5)
        assert layer.train().to_float().training


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"normalizer": FeatureNorm()}, "normalizer 'FeatureNorm'"),
        ({"state_quantizer": ScaledSign()}, "state_quantizer 'ScaledSign'"),
    ],
)
def test_what_torch_cannot_compute_is_named(options: Any, named: str) -> None:
    with pytest.raises(ValueError, match=f"torch.s layer cannot compute {named}"):
        LSTM(3, 4, **options).to_float()


def test_families_that_torch_has_not_say_so() -> None:
    with pytest.raises(TypeError, match="no float layer of the equations of FactorizedLSTM"):
        FactorizedLSTM(6, 4, rank=2).to_float()
    with pytest.raises(TypeError, match="no float layer of the equations of FactorizedLSTM"):
        FactorizedLSTM.from_float(nn.LSTM(3, 4))
    with pytest.raises(TypeError, match=r"expected a torch.nn.LSTM, got torch.nn.modules.rnn.GRU"):
        LSTM.from_float(nn.GRU(3, 4))


# Fitting normalisers


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize("family", [LSTM, GRU])
@pytest.mark.parametrize("both", [False, True])
def test_batch_normalisation_fitted_to_a_float_layer_is_the_float_layer(family: Any, both: bool) -> None:
    """Shared statistics are an affine map of each unit in eval(), which least squares finds exactly."""
    torch.manual_seed(1)
    source = family.twin(5, 12, 2, bidirectional=both)
    sequences = [torch.randn(length, 5) for length in (9, 9, 6, 4)]
    packed = pack_sequence(sequences)
    layer = family.from_float(source, normalizer=SharedBatchNorm(), data=packed).eval()
    torch.testing.assert_close(layer(packed)[0].data, source(packed)[0].data, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("method", [BatchNorm, SharedBatchNorm])
def test_running_statistics_are_the_datas_step_by_step(method: type, both: bool) -> None:
    torch.manual_seed(2)
    source = nn.LSTM(5, 6, bidirectional=both)
    data = [torch.randn(4, 8, 5), torch.randn(4, 8, 5) + 1]
    layer = LSTM.from_float(source, quantizer=RowSign(), normalizer=method(), data=data)
    for suffix, order in (("_l0", 1), ("_l0_reverse", -1))[: 1 + both]:
        signs = getattr(layer, f"weight_ih{suffix}").sign()
        scale = getattr(layer, f"weight_ih{suffix}").abs().mean(1, keepdim=True)
        norm = layer.normalizers[f"ih{suffix}"]
        steps = [[(x @ (signs * scale).T).view(8, 4, 6) for x in batch][::order] for batch in data]
        rows = len(norm.running_mean)
        means = torch.stack([torch.stack([p.mean(0) for p in batch]) for batch in steps]).mean(0)
        variances = torch.stack([torch.stack([p.var(0) for p in batch]) for batch in steps]).mean(0)
        expected = [m if rows > 1 else m.mean(0, keepdim=True) for m in (means, variances)]
        torch.testing.assert_close(norm.running_mean[: len(expected[0])], expected[0])
        torch.testing.assert_close(norm.running_var[: len(expected[1])], expected[1])


def test_gain_and_bias_are_the_least_squares_of_preactivations() -> None:
    """One step from a given state: both sides' inputs are known, and a solver is the reference."""
    torch.manual_seed(3)
    source = nn.LSTM(5, 6)
    x, state = torch.randn(1, 40, 5), (torch.randn(1, 40, 6), torch.randn(1, 40, 6))
    layer = LSTM.from_float(source, quantizer=ScaledSign(), normalizer=FeatureNorm(), data=(x, state))
    for key, inputs in (("ih", x[0]), ("hh", state[0][0])):
        weight = getattr(source, f"weight_{key}_l0").detach().view(4, 6, -1)
        quantized = ScaledSign()(weight)
        norm = layer.normalizers[f"{key}_l0"]
        for gate in range(4):
            target, p = inputs @ weight[gate].T, inputs @ quantized[gate].T
            z = (p - p.mean(1, keepdim=True)) / (p.var(1, correction=0, keepdim=True) + norm.eps).sqrt()
            for unit in range(6):
                columns = torch.stack([z[:, unit], torch.ones(40)], 1)
                solution = torch.linalg.lstsq(columns.double(), target[:, unit, None].double()).solution
                assert norm.gain[gate, unit].item() == pytest.approx(solution[0].item(), abs=1e-4)
                assert norm.bias[gate, unit].item() == pytest.approx(solution[1].item(), abs=1e-4)
    summed = source.bias_ih_l0 + source.bias_hh_l0
    torch.testing.assert_close(layer.bias_ih_l0, summed)


@pytest.mark.parametrize("family", [LSTM, GRU])
def test_a_trace_knows_what_each_step_received(family: Any) -> None:
    layer = family(3, 4, 2, bidirectional=True)
    packed = pack_sequence([torch.randn(length, 3) for length in (5, 5, 3, 1)])
    with record_states(layer) as traces:
        layer(packed, None)
    assert len(traces) == 4
    for trace in traces:
        rows = trace.input.split(trace.batch_sizes)
        for received, r, row, x in zip(trace.received(), trace.r, rows, trace.x, strict=True):
            prepared = trace.prepared
            torch.testing.assert_close(prepared.recurrent(received) + prepared.bias_hh, r)
            torch.testing.assert_close(prepared.input(row) + prepared.bias_ih, x)


def test_fitted_layers_start_near_the_float_layer() -> None:
    torch.manual_seed(4)
    source = nn.LSTM(8, 64, 2)
    x = torch.randn(20, 16, 8)
    expected = source(x)[0]
    for normalizer, limit in ((FeatureNorm(), 0.3), (BatchNorm(), 0.3), (UnitRowsWithGain(), 0.3)):
        options = {"quantizer": RowSign(), "normalizer": normalizer}
        fitted = LSTM.from_float(source, data=x, **options).eval()
        assert relative_error(fitted(x)[0], expected) < limit
    started = LSTM.from_float(source, quantizer=RowSign(), normalizer=FeatureNorm()).eval()
    assert relative_error(started(x)[0], expected) > 1


class UnitRowsWithGain(UnitRows):
    """Rows of learned length."""

    def prepare(self, weight: Tensor) -> None:
        super().prepare(weight)
        self.gain = nn.Parameter(torch.full(weight.shape[:2], 0.1))

    def weight(self, weight: Tensor) -> Tensor:
        return nn.functional.normalize(weight, dim=-1) * self.gain.unsqueeze(-1)


def test_a_grus_bias_inside_the_reset_gate_needs_a_place() -> None:
    source = nn.GRU(3, 4)
    with pytest.raises(ValueError, match=r"b_hn of torch's layer has no place .* 'UnitRows'"):
        GRU.from_float(source, normalizer=UnitRows())
    nn.init.zeros_(source.bias_hh_l0)
    GRU.from_float(source, normalizer=UnitRows())


# Whole models


def test_the_filter_chooses_by_name_class_and_function() -> None:
    model = Model(5, 4, [nn.Linear(4, 4), Recurrent(nn.LSTM(4, 4))], tied=False)
    for only, expected in (
        ("stages.*", ["stages.0", "stages.1.layer"]),
        (nn.LSTM, ["stages.1.layer"]),
        ([nn.Embedding, "head"], ["words", "head"]),
        (lambda name, layer: getattr(layer, "out_features", 0) == 5, ["head"]),
    ):
        converted, report = convert(model, ScaledSign(), only=only)
        assert report.replaced == expected
        assert set(report.skipped.values()) == {"not chosen by only"}
        ours = [name for name, m in converted.named_modules() if isinstance(m, (LSTM, Linear, Embedding))]
        assert ours == expected
    with pytest.raises(TypeError, match=r"only must be names, classes or functions .* got int: 3"):
        convert(model, only=[3])


def test_the_report_has_sizes_and_reasons() -> None:
    model = Model(8, 4, [nn.Linear(4, 4)], tied=False)
    _, report = convert(model, ScaledSign(), only=["words", "head"])
    assert str(report).splitlines() == [
        "words     Embedding  128 → 8 bytes",  # 32 signs and a scale
        "stages.0  Linear     skipped: not chosen by only",
        "head      Linear     160 → 40 bytes",  # and 8 biases
    ]


def test_shared_weights_have_one_quantizer() -> None:
    model = Model(6, 4, [], tied=True)
    converted, _ = convert(model, LearnedSign())
    assert converted.head.weight is converted.words.weight
    assert converted.head.quantizer is converted.words.quantizer
    half, _ = convert(model, ScaledSign(), only=nn.Embedding)
    with pytest.raises(ValueError, match=r"head.weight is shared with words, .*ScaledSign.* RowSign"):
        convert(half, RowSign(), only="head")
    assert convert(half, ScaledSign(), only="head").report.replaced == ["head"]


class Wider(nn.Linear):
    """A layer of somebody's own."""


def test_what_cannot_be_replaced_is_skipped_with_the_reason() -> None:
    hooked = nn.Linear(4, 4)
    hooked.register_forward_hook(lambda *_: None)
    model = nn.ModuleDict(
        {
            "own": Wider(4, 4),
            "attention": nn.TransformerEncoderLayer(4, 2, 4),
            "normed": parametrizations.weight_norm(nn.Linear(4, 4)),
            "hooked": hooked,
            "ours": Linear(4, 4),
            "cell": nn.LSTMCell(4, 4),
            "elman": nn.RNN(4, 4),
            "plain": nn.Linear(4, 4),
        }
    )
    _, report = convert(model, ScaledSign())
    assert report.replaced == ["plain"]
    for name, why in (
        ("own", "a subclass, Wider,"),
        ("attention.linear1", "attention, a TransformerEncoderLayer, reads its weight"),
        ("normed", "parametrised or pruned"),
        ("hooked", "has hooks"),
        ("ours", "one of ours"),
        ("cell", "no such layer"),
        ("elman", "no such layer"),
    ):
        assert why in report.skipped[name]


def test_nothing_to_convert_says_why() -> None:
    with pytest.raises(ValueError, match=r"nothing to replace: Tanh has no torch.nn.LSTM"):
        convert(nn.Tanh())
    with pytest.raises(ValueError, match="nothing to replace: the model: not chosen by only"):
        convert(nn.Linear(2, 2), only="head")


def test_a_model_that_is_a_layer_is_replaced_itself() -> None:
    source = nn.LSTM(3, 5)
    layer, report = convert(source, ScaledSign())
    assert isinstance(layer, LSTM)
    assert report.replaced == [""]
    assert str(report).startswith("(the model)  LSTM  ")


def test_normalisers_are_fitted_to_what_the_model_gives_its_layers() -> None:
    torch.manual_seed(5)
    model = Model(20, 16, [nn.Dropout(), Recurrent(nn.LSTM(16, 16)), Recurrent(nn.GRU(16, 16))], tied=True)
    batches = [torch.randint(20, (10, 8)) for _ in range(3)]
    converted, _ = convert(model, "none", SharedBatchNorm(), only=[nn.LSTM, nn.GRU], data=batches)
    assert converted.training
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(converted.eval()(batches[0]), model.eval()(batches[0]), rtol=1e-4, atol=1e-5)


def test_data_that_reaches_no_layer_is_an_error() -> None:
    model = Model(6, 4, [Recurrent(nn.LSTM(4, 4))], tied=False)
    with pytest.raises(ValueError, match=r"stages.0.layer, a LSTM, was never called with data"):
        convert(model, ScaledSign(), FeatureNorm(), only=nn.LSTM, data=[])
    with pytest.raises(ValueError, match="no batch in data"):
        LSTM.from_float(nn.LSTM(4, 4), normalizer=FeatureNorm(), data=[])


def test_embeddings_whose_rows_change_alone_are_skipped() -> None:
    model = nn.Sequential(
        nn.Embedding(5, 3, max_norm=0.5), nn.Embedding(5, 3, sparse=True), nn.Embedding(5, 3)
    )
    _, report = convert(model, ScaledSign())
    assert report.replaced == ["2"]
    assert convert(model).report.replaced == ["0", "1", "2"]
    with pytest.raises(ValueError, match=r"max_norm=0.5 .* leave one of them out"):
        Embedding.from_float(model[0], quantizer=ScaledSign())


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: convert(3), "expected a torch.nn.Module, got int: 3"),
        (lambda: convert(nn.Linear(2, 2), only=3), "only must be names, .* got int: 3"),
        (lambda: Linear.from_float(nn.LSTM(3, 3)), r"expected a torch.nn.Linear, got torch.nn.*LSTM"),
        (lambda: LSTM.from_float(LSTM(3, 3)), r"expected a torch.nn.LSTM, got qlstm_core.*LSTM"),
    ],
)
def test_what_is_no_layer_is_named(call: Any, problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        call()
