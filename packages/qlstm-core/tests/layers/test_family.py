"""GRU, factorized and grouped LSTMs: equal to what they are built from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_cases import Case, RowNorm, Sign, StepGain, WithCell, cases, run

from qlstm_core import GRU, LSTM, FactorizedLSTM, GroupedLSTM, RecurrentLayer
from qlstm_core.layers.cell import GRU_CELL, LSTM_CELL

# torch's own: oneDNN has no projections.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


class LoopGRU(GRU):
    cell = replace(GRU_CELL, operator=None)


class LoopLSTM(LSTM):
    cell = replace(LSTM_CELL, operator=None)


def assert_same(ours: object, theirs: object, tolerance: float = 1e-5) -> None:
    for mine_group, their_group in zip(ours, theirs, strict=True):  # type: ignore[call-overload]
        for mine, their in zip(mine_group, their_group, strict=True):
            torch.testing.assert_close(mine, their, rtol=tolerance, atol=tolerance)


@settings(max_examples=60)
@given(cases(projection=False), st.sampled_from([GRU, LoopGRU]))
def test_gru_equals_torch(case: Case, cls: type[GRU]) -> None:
    theirs = torch.nn.GRU(case.input_size, case.hidden_size, **case.options)
    ours = cls(case.input_size, case.hidden_size, **case.options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert_same(run(ours, case, ("h",)), run(theirs, case, ("h",)))


def test_three_layer_bidirectional_loop_equals_torch() -> None:
    theirs = torch.nn.LSTM(5, 6, 3, bidirectional=True)
    ours = LoopLSTM(5, 6, 3, bidirectional=True)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(7, 4, 5)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0])


def test_device_and_dtype_may_stand_where_torch_has_them() -> None:
    for ours, theirs in ((LSTM, torch.nn.LSTM), (GRU, torch.nn.GRU)):
        given = (3, 4, 2, False, True, 0.0, True, 0, "meta", torch.float64)
        mine, its = ours(*given), theirs(*given)
        assert {n: (p.shape, p.dtype, p.device) for n, p in mine.named_parameters()} == {
            n: (p.shape, p.dtype, p.device) for n, p in its.named_parameters()
        }
        assert mine.batch_first
        with pytest.raises(TypeError, match="positional arguments"):
            ours(*given, "bwn")


@pytest.mark.parametrize("arguments", [{"proj_size": 2}, {"hidden_size": 0}, {"dropout": 2}], ids=str)
def test_gru_errors_are_torchs(arguments: dict[str, int]) -> None:
    everything = {"input_size": 3, "hidden_size": 4} | arguments
    with pytest.raises((ValueError, TypeError)) as theirs:
        torch.nn.GRU(**everything)
    with pytest.raises(type(theirs.value)) as ours:
        GRU(**everything)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(
    ("x", "state"),
    [
        (torch.zeros(3), None),
        (torch.zeros(5, 2, 3), torch.zeros(1, 3, 4)),
        (torch.zeros(5, 2, 3), torch.zeros(2, 4)),
        (torch.zeros(5, 3), torch.zeros(1, 1, 4)),
    ],
    ids=["1-D", "batch", "2-D state", "3-D state"],
)
def test_gru_call_errors_are_torchs(x: torch.Tensor, state: torch.Tensor | None) -> None:
    with pytest.raises((ValueError, RuntimeError)) as theirs:
        torch.nn.GRU(3, 4)(x, state)
    with pytest.raises(type(theirs.value)) as ours:
        GRU(3, 4)(x, state)
    assert str(ours.value) == str(theirs.value)


def test_gru_has_no_cell_to_normalise() -> None:
    with pytest.raises(ValueError, match="GRU has no cell state"):
        GRU(3, 4, normalizer=WithCell())
    with pytest.raises(TypeError, match="unexpected keyword argument 'rank'"):
        GRU(3, 4, rank=2)


@settings(max_examples=30)
@given(cases())
def test_factorized_of_full_rank_equals_lstm(case: Case) -> None:
    """The factors of a singular value decomposition give the LSTM that was decomposed."""
    # One rank serves all layers, so it is full for one layer.
    case = replace(case, options=case.options | {"num_layers": 1})
    lstm = LSTM(case.input_size, case.hidden_size, **case.options)
    rank = min(4 * lstm.hidden_size, lstm.input_size + lstm.output_size)
    factorized = FactorizedLSTM(case.input_size, case.hidden_size, **case.options, rank=rank)
    for layer, direction in lstm.layer_directions():
        suffix = f"_l{layer}{'_reverse' if direction else ''}"
        both = torch.cat(
            [lstm.get_parameter(f"weight_{key}{suffix}").detach() for key in ("ih", "hh")], 1
        ).double()
        u, s, v = torch.linalg.svd(both, full_matrices=False)
        factorized.get_parameter("weight_outer" + suffix).data = (u[:, :rank] * s[:rank]).float()
        factorized.get_parameter("weight_inner" + suffix).data = v[:rank].float()
        if lstm.bias:
            bias = lstm.get_parameter("bias_ih" + suffix) + lstm.get_parameter("bias_hh" + suffix)
            factorized.get_parameter("bias_ih" + suffix).data = bias.detach()
        if lstm.proj_size:
            factorized.get_parameter("weight_hr" + suffix).data = lstm.get_parameter(
                "weight_hr" + suffix
            ).data
    values, _ = run(factorized, case)
    expected, _ = run(lstm, case)
    assert_same([values], [expected])


def test_factorized_weight_norm_acts_on_the_product() -> None:
    torch.manual_seed(0)
    layer = FactorizedLSTM(5, 6, rank=3, normalizer=RowNorm())
    lstm = LSTM(5, 6, normalizer=RowNorm())
    product = layer.weight_outer_l0 @ layer.weight_inner_l0
    lstm.weight_ih_l0.data, lstm.weight_hh_l0.data = product[:, :5].detach(), product[:, 5:].detach()
    lstm.bias_ih_l0.data = layer.bias_ih_l0.data
    x = torch.randn(4, 2, 5)
    torch.testing.assert_close(layer(x)[0], lstm(x)[0])


def test_both_factors_are_quantized() -> None:
    weights = FactorizedLSTM(5, 6, rank=3, quantizer=Sign()).quantized_weights()
    assert [w.abs().unique().tolist() for w in weights.values()] == [[1.0], [1.0]]


def test_factorized_starts_with_an_lstms_variance() -> None:
    torch.manual_seed(0)
    layer = FactorizedLSTM(200, 256, rank=64)
    product = layer.weight_outer_l0 @ layer.weight_inner_l0
    assert product.var().item() == pytest.approx(1 / (3 * 256), rel=0.05)


def copy_group(small: LSTM, grouped: GroupedLSTM, group: int) -> None:
    """Give ``small`` the parameters of one group."""
    for layer, direction in grouped.layer_directions():
        suffix = f"_l{layer}{'_reverse' if direction else ''}"
        rows = slice(group * 4 * small.hidden_size, (group + 1) * 4 * small.hidden_size)
        for key in ("weight_ih", "weight_hh", "bias_ih"):
            small.get_parameter(key + suffix).data = grouped.get_parameter(key + suffix).data[rows]


@settings(max_examples=30)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(["none", "gain", "cell", "rows"]),
    st.sampled_from(["vectors", "tokens"]),
    st.integers(0, 9999),
)
def test_groups_equal_independent_small_lstms(
    groups: int,
    inputs: int,
    hidden: int,
    layers: int,
    bidirectional: bool,
    normalizer: str,
    kind: str,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    norm = {"none": "none", "gain": StepGain(), "cell": WithCell(), "rows": RowNorm()}[normalizer]
    options = {"num_layers": layers, "bidirectional": bidirectional, "quantizer": Sign(), "normalizer": norm}
    grouped = GroupedLSTM(groups * inputs, groups * hidden, groups=groups, **options)
    tokens = torch.randint(groups * inputs, (5, 2))
    vectors = torch.nn.functional.one_hot(tokens, groups * inputs).float()
    x = torch.randn(5, 2, groups * inputs) if kind == "vectors" else vectors
    output, (h, c) = grouped(x if kind == "vectors" else tokens)
    directions = 2 if bidirectional else 1
    per_group = output.view(5, 2, directions, groups, hidden)
    for k in range(groups):
        small = LSTM(inputs, hidden, **options)
        copy_group(small, grouped, k)
        if normalizer == "none":
            for name, bias in small.named_parameters():
                if "bias_hh" in name:
                    torch.nn.init.zeros_(bias)
        elif normalizer in ("gain", "cell"):
            for key, module in small.normalizers.items():
                module.gain.data = grouped.normalizers[key].gain.data
        expected, (h_small, c_small) = small(x[..., k * inputs : (k + 1) * inputs])
        torch.testing.assert_close(per_group[..., k, :].flatten(2), expected)
        torch.testing.assert_close(h[..., k * hidden : (k + 1) * hidden], h_small)
        torch.testing.assert_close(c[..., k * hidden : (k + 1) * hidden], c_small)


def test_one_group_with_projection_equals_lstm() -> None:
    torch.manual_seed(0)
    lstm = LSTM(4, 6, 2, proj_size=3, normalizer=RowNorm())
    grouped = GroupedLSTM(4, 6, 2, groups=1, proj_size=3, normalizer=RowNorm())
    lstm.load_state_dict(grouped.state_dict())
    x = torch.randn(5, 2, 4)
    torch.testing.assert_close(grouped(x)[0], lstm(x)[0])


BIG = {"input_size": 1024, "hidden_size": 8192, "num_layers": 2, "proj_size": 1024, "device": "meta"}


@pytest.mark.parametrize(
    ("layer", "count"),
    [
        (FactorizedLSTM(**BIG, rank=512), 52_494_336),
        (GroupedLSTM(**BIG, groups=2), 83_951_616),
        (GroupedLSTM(**BIG, groups=4), 50_397_184),
        (GroupedLSTM(**BIG, groups=8), 33_619_968),
    ],
    ids=["F512", "G2", "G4", "G8"],
)
def test_published_parameter_counts(layer: RecurrentLayer, count: int) -> None:
    """Kuchaiev and Ginsburg 2017, table 1."""
    assert sum(p.numel() for p in layer.parameters()) == count
    assert layer.storage_bytes() == 4 * count


def test_published_parameter_count_of_the_projected_lstm() -> None:
    """Torch's second bias is a parameter, but not one of the deployed layer."""
    layer = LSTM(**BIG)
    assert layer.storage_bytes() == 4 * 151_060_480
    assert sum(p.numel() for p in layer.parameters()) == 151_060_480 + 2 * 4 * 8192


def test_hierarchical_groups() -> None:
    layer = GroupedLSTM(8, 16, 2, groups=(2, 4))
    assert layer.weight_ih_l0.shape == (64, 4)
    assert layer.weight_ih_l1.shape == (64, 4)
    assert layer(torch.randn(3, 2, 8))[0].shape == (3, 2, 16)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GroupedLSTM(8, 10, groups=4), "hidden_size must be divisible by groups=4, got 10"),
        (lambda: GroupedLSTM(6, 8, groups=4), "input_size must be divisible by groups=4, got 6"),
        (lambda: GroupedLSTM(8, 8, groups=4, proj_size=2), "proj_size must be divisible by groups=4, got 2"),
        (lambda: GroupedLSTM(8, 8, groups=0), "groups must be positive ints, got 0"),
        (lambda: GroupedLSTM(8, 8, 3, groups=(2, 4)), r"one for each of the 3 layers, got \(2, 4\)"),
        (lambda: FactorizedLSTM(8, 16, rank=25), "rank must be an int from 1 to 24, .* layer 0, got 25"),
        (lambda: FactorizedLSTM(8, 16, rank=0), "got 0"),
        (lambda: LSTM(8, 16, proj_size=17), "proj_size has to be smaller than hidden_size"),
    ],
)
def test_sizes_that_do_not_fit(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]


@pytest.mark.parametrize("cls", [LSTM, GRU, FactorizedLSTM, GroupedLSTM])
def test_empty_sequences_are_refused(cls: type[RecurrentLayer]) -> None:
    options = {FactorizedLSTM: {"rank": 2}, GroupedLSTM: {"groups": 2}}.get(cls, {})
    with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0 in RNN"):
        cls(4, 8, **options)(torch.zeros(0, 2, 4))


@pytest.mark.parametrize(
    "layer",
    [
        LSTM(3, 2, 2, bidirectional=True, proj_size=1),
        GRU(3, 2, 2, bidirectional=True),
        FactorizedLSTM(3, 2, 2, rank=2),
        GroupedLSTM(4, 4, 2, groups=2, bidirectional=True),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_gradients_by_finite_differences(layer: RecurrentLayer) -> None:
    torch.manual_seed(0)
    layer = layer.double()
    x = torch.randn(3, 2, layer.input_size, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def call(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))[0]

    assert torch.autograd.gradcheck(call, (x, *parameters))
