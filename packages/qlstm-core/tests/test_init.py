"""Weights that start by name, gains that start from data, and initial states that are learned."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_cases import Sign
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_sequence

from qlstm_core import (
    GRU,
    LSTM,
    Cell,
    FactorizedLSTM,
    GroupedLSTM,
    InitialState,
    Normalizer,
    RecurrentLayer,
    init,
    record_states,
)


class RowGain(Normalizer):
    """Weight normalisation: g W / ‖W‖, with g the norms at the start."""

    def prepare(self, weight: Tensor) -> None:
        self.gain = nn.Parameter(weight.norm(dim=-1))

    def weight(self, weight: Tensor) -> Tensor:
        return self.gain.unsqueeze(-1) * nn.functional.normalize(weight, dim=-1)


class Shift(Normalizer):
    """Acts on activations, and has a gain that is none of a weight."""

    def prepare(self, weight: Tensor) -> None:
        self.gain = nn.Parameter(weight.new_ones(weight.shape[:2]))

    def forward(self, preactivation: Tensor, step: int) -> Tensor:
        return preactivation + self.gain


def matrices(layer: RecurrentLayer, name: str, groups: int = 1) -> list[Tensor]:
    """Return the matrices of all gates, one below the other, for each group."""
    weight = getattr(layer, name).detach()
    return list(weight.chunk(groups))


def require_orthonormal(matrix: Tensor) -> None:
    rows, cols = matrix.shape
    product = matrix.T @ matrix if rows >= cols else matrix @ matrix.T
    torch.testing.assert_close(product, torch.eye(min(rows, cols)).to(product), atol=1e-5, rtol=0)


def test_torch_is_how_torch_starts() -> None:
    layer = init.orthogonal_(LSTM(5, 7, 2, bidirectional=True))
    torch.manual_seed(3)
    assert init.torch_(layer) is layer
    torch.manual_seed(3)
    for name, parameter in nn.LSTM(5, 7, 2, bidirectional=True).named_parameters():
        assert torch.equal(layer.get_parameter(name), parameter)


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(1, 5), st.sampled_from([1, 2, 3]), st.integers(0, 99))
def test_orthogonal_weights(inputs: int, rows: int, groups: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer: Any = GroupedLSTM(groups * inputs, groups * rows, 2, groups=groups, dtype=torch.float64)
    for name in ("weight_ih_l0", "weight_hh_l0", "weight_ih_l1"):
        for matrix in matrices(init.orthogonal_(layer), name, groups):
            require_orthonormal(matrix)
    hidden = groups * rows
    plain = init.orthogonal_(LSTM(inputs, hidden + 1, proj_size=hidden))
    factored = init.orthogonal_(FactorizedLSTM(inputs, hidden, rank=1))
    for layer, names in ((plain, ("ih", "hh", "hr")), (factored, ("outer", "inner"))):
        for name in names:
            require_orthonormal(matrices(layer, f"weight_{name}_l0")[0])


@pytest.mark.parametrize("groups", [1, 3])
def test_identity_in_the_candidate_and_the_rest_orthogonal(groups: int) -> None:
    torch.manual_seed(0)
    for layer, others in (
        (GroupedLSTM(6, 12, 2, bidirectional=True, groups=groups), [0, 1, 3]),
        (GRU(6, 12, 2, bidirectional=True), [0, 1]),
    ):
        of = groups if isinstance(layer, GroupedLSTM) else 1
        init.identity_(layer)
        for end in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
            for matrix in matrices(layer, f"weight_hh{end}", of):
                gates = matrix.view(len(layer.cell.gates), 12 // of, 12 // of)
                assert torch.equal(gates[2], torch.eye(12 // of))
                require_orthonormal(gates[others].flatten(0, 1))
            for matrix in matrices(layer, f"weight_ih{end}", of):
                require_orthonormal(matrix)


@pytest.mark.parametrize("start", [init.identity_, init.orthogonal_, init.glorot_])
def test_biases_start_from_zero_but_for_open_forget_gates(start: Any) -> None:
    expected = torch.tensor([0.0, 1.0, 0.0, 0.0]).view(4, 1)
    layer = start(LSTM(3, 6, bidirectional=True))
    for end in ("_l0", "_l0_reverse"):
        assert torch.equal(getattr(layer, f"bias_ih{end}").view(4, 6), expected.expand(4, 6))
        assert not getattr(layer, f"bias_hh{end}").any()
    grouped = start(GroupedLSTM(3, 6, groups=3, normalizer=Shift()))
    assert torch.equal(grouped.bias_ih_l0.view(3, 4, 2), expected.expand(3, 4, 2))
    gru = start(GRU(3, 6))
    assert not gru.bias_ih_l0.any()
    assert not gru.bias_hh_l0.any()
    assert start(LSTM(3, 6, bias=False)).bias_names == ()


def test_glorot_bounds_are_those_of_one_matrix_for_both_sides() -> None:
    torch.manual_seed(0)
    size = {"input_size": 20, "hidden_size": 60, "proj_size": 30}
    both, projection = 6 / (20 + 30 + 240), 6 / (60 + 30)
    for layer, squares in (
        (LSTM(**size), {"ih": both, "hh": both, "hr": projection}),
        (GroupedLSTM(**size, groups=2), {"ih": 2 * both, "hh": 2 * both, "hr": projection}),
        (
            FactorizedLSTM(**size, rank=10),
            {"outer": 6 / (10 + 240), "inner": 6 / (20 + 30 + 10), "hr": projection},
        ),
        (GRU(20, 60), {"ih": 6 / (20 + 60 + 180), "hh": 6 / (20 + 60 + 180)}),
    ):
        init.glorot_(layer)
        for key, square in squares.items():
            largest = float(getattr(layer, f"weight_{key}_l0").detach().abs().max())
            assert 0.98 * math.sqrt(square) < largest <= math.sqrt(square)


def test_what_depends_on_weights_starts_from_the_new_ones() -> None:
    layer = LSTM(3, 6, normalizer=RowGain())
    held = layer.normalizers["hh_l0"].gain
    init.identity_(layer)
    rows = layer.weight_hh_l0.view(4, 6, 6).norm(dim=-1)
    assert torch.equal(layer.normalizers["hh_l0"].gain, rows)
    assert torch.equal(rows[2], torch.ones(6))
    assert layer.normalizers["hh_l0"].gain is held


def test_every_dtype_the_meta_device_and_computed_weights_start() -> None:
    half = init.orthogonal_(LSTM(3, 8, dtype=torch.bfloat16))
    torch.testing.assert_close(half.weight_hh_l0.float().square().sum(), torch.tensor(8.0), rtol=0.02, atol=0)
    for start in init.INITIALIZERS.values():
        assert start(LSTM(3, 8, device="meta")).weight_hh_l0.is_meta
    pruned = LSTM(3, 8)
    prune.l1_unstructured(pruned, "weight_hh_l0", 0.5)
    init.identity_(pruned)
    mask = pruned.weight_hh_l0_mask.view(4, 8, 8)[2]
    assert torch.equal(pruned.weight_hh_l0.view(4, 8, 8)[2], torch.eye(8) * mask)


class Custom(LSTM):
    cell = Cell("custom", gates="ifgo", states=("h", "c"), step=LSTM.cell.step)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (LSTM(3, 4, proj_size=2), "LSTM has no square recurrent matrix for each gate; expected an LSTM, GRU"),
        (FactorizedLSTM(3, 4, rank=2), "FactorizedLSTM has no square recurrent matrix for each gate"),
        (Custom(3, 4), "cell 'custom' does not say which gate is its candidate"),
    ],
)
def test_layers_that_cannot_start_from_the_identity_stay_as_they_are(
    layer: RecurrentLayer, message: str
) -> None:
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        init.identity_(layer)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("field", ["candidate", "forget"])
@pytest.mark.parametrize("letter", ["x", "if"])
def test_a_cell_names_its_own_gates(field: str, letter: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be one of the gates 'ifgo', got '{letter}'"):
        Cell("custom", gates="ifgo", states=("h", "c"), step=LSTM.cell.step, **{field: letter})


def deviations(values: list[Tensor]) -> Tensor:
    """Return the standard deviation of each unit, by its definition."""
    rows = torch.cat(values).detach()
    mean = rows.sum(0) / len(rows)
    return ((rows - mean).square().sum(0) / len(rows)).sqrt()


@pytest.mark.parametrize(
    "build",
    [
        lambda **o: LSTM(7, 12, 2, bidirectional=True, **o),
        lambda **o: init.orthogonal_(LSTM(7, 12, proj_size=5, **o)),
        lambda **o: GRU(7, 12, bias=False, **o),
        lambda **o: GroupedLSTM(8, 12, 2, groups=2, **o),
        lambda **o: FactorizedLSTM(7, 12, rank=5, **o),
    ],
    ids=["lstm", "projected", "gru", "grouped", "factorized"],
)
def test_gains_from_data_give_every_unit_unit_variance(build: Any) -> None:
    torch.manual_seed(0)
    layer = build(quantizer=Sign(), normalizer=RowGain())
    before = {name: value.clone() for name, value in layer.state_dict().items() if "bias" in name}
    weights = {name: value.clone() for name, value in layer.state_dict().items() if "weight" in name}
    batch = torch.randn(30, 20, layer.input_size) + 0.5
    assert init.data_start_(layer, batch) is layer
    with record_states(layer) as traces, torch.no_grad():
        layer(batch)
    for trace in traces:
        torch.testing.assert_close(deviations(trace.x), torch.ones_like(trace.x[0][0]), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(deviations(trace.r), torch.ones_like(trace.r[0][0]), rtol=0.02, atol=0.02)
        if layer.bias:
            bias = before[f"bias_ih_l{trace.layer}{'_reverse' if trace.direction else ''}"]
            groups = trace.prepared.groups
            bias = bias.view(groups, len(layer.cell.gates), -1).transpose(0, 1).flatten(1)
            torch.testing.assert_close(torch.cat(trace.x).mean(0), bias, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, layer.state_dict()[name]) for name, value in weights.items())


def test_gains_from_data_settle_within_ten_passes_or_so() -> None:
    """Whole steps, g/σ, overshoot: here they have not settled after 30."""
    torch.manual_seed(0)
    layer = init.identity_(GRU(3, 16, normalizer=RowGain()))
    calls: list[int] = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    init.data_start_(layer, torch.randn(100, 32, 3))
    assert 5 < len(calls) <= 15


def test_gains_from_data_take_states_tokens_and_sequences_of_different_lengths() -> None:
    torch.manual_seed(0)
    layer = LSTM(9, 6, normalizer={"ih": RowGain(), "hh": Shift()}, tokens=True)
    sequences = pack_sequence([torch.randint(9, (length,)) for length in (40, 30, 30, 3)])
    state = (torch.randn(1, 4, 6), torch.randn(1, 4, 6))
    init.data_start_(layer, sequences, state)
    picked = layer.prepared_cell(0, 0).input(sequences.data)
    torch.testing.assert_close(deviations([picked]), torch.ones(4, 6), rtol=1e-4, atol=1e-4)
    assert torch.equal(layer.normalizers["hh_l0"].gain, torch.ones(4, 6))


class SomeZeroRows(Sign):
    """±1, but rows of zeros in the first gate."""

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        kept = torch.ones(len(weight), 1, 1)
        kept[0] = 0
        return super().forward(weight) * kept


def test_units_that_never_change_keep_their_gains() -> None:
    torch.manual_seed(0)
    layer = LSTM(3, 4, quantizer=SomeZeroRows(), normalizer=RowGain())
    before = {key: norm.gain.clone() for key, norm in layer.normalizers.items()}
    init.data_start_(layer, torch.randn(10, 5, 3))
    for key, norm in layer.normalizers.items():
        assert torch.equal(norm.gain[0], before[key][0])
        assert (norm.gain[1:] != before[key][1:]).all()
    constant = LSTM(3, 4, normalizer=RowGain())
    gain = constant.normalizers["ih_l0"].gain.clone()
    init.data_start_(constant, torch.full((10, 5, 3), 0.3))
    assert torch.equal(constant.normalizers["ih_l0"].gain, gain)


def test_layers_without_such_gains_are_refused() -> None:
    for normalizer in ("none", Shift()):
        with pytest.raises(
            ValueError, match="sets the gains of weight normalisation, and this layer has none"
        ):
            init.data_start_(LSTM(3, 4, normalizer=normalizer), torch.randn(5, 2, 3))


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        (LSTM(3, 4, 2, bidirectional=True, proj_size=2, normalizer=Shift()), [(4, 5, 2), (4, 5, 4)]),
        (GRU(3, 4, 2), [(2, 5, 4)]),
    ],
    ids=["lstm", "gru"],
)
def test_a_learned_initial_state_has_the_layers_form_and_gradients(
    layer: RecurrentLayer, shapes: list[tuple[int, ...]]
) -> None:
    torch.manual_seed(0)
    start = InitialState(layer)
    for parameter in start.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(6, 5, 3)
    hx = start(5)
    states = hx if isinstance(hx, tuple) else (hx,)
    assert [tuple(state.shape) for state in states] == shapes
    layer(x, hx)[0].square().sum().backward()
    # The gradient of a state that all sequences share is the sum of theirs.
    alone = [state.detach().clone().requires_grad_() for state in states]
    layer(x, tuple(alone) if len(alone) > 1 else alone[0])[0].square().sum().backward()
    for parameter, state in zip(start.parameters(), alone, strict=True):
        assert state.grad is not None
        torch.testing.assert_close(parameter.grad, state.grad.sum(1, keepdim=True))
    twin = copy.deepcopy(start)
    twin.load_state_dict(start.state_dict())
    assert set(start.state_dict()) == {f"{name}_0" for name in layer.cell.states}


def test_noise_of_initial_states() -> None:
    layer = LSTM(3, 100, dtype=torch.float64)
    start = InitialState(layer, noise=0.1)
    torch.manual_seed(5)
    h, c = (state.detach() for state in start(2000))
    for state in (h, c):
        assert float(state.std()) == pytest.approx(0.1, rel=0.01)
        assert abs(float(state.mean())) < 0.001
    assert not torch.equal(h, c)
    torch.manual_seed(5)
    assert torch.equal(start.eval()(2000)[0], h)
    quiet = InitialState(layer, noise=0.1, noise_in_eval=False)
    assert quiet(2)[0].any()
    assert not quiet.eval()(2)[0].any()
    assert "noise=0.1" in repr(start)
    for wrong in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"noise must be a finite number from 0, got {wrong}"):
            InitialState(layer, noise=wrong)


def test_layers_of_torch_are_named_and_refused() -> None:
    for start in (
        *init.INITIALIZERS.values(),
        lambda layer: init.data_start_(layer, torch.ones(2, 2, 3)),
        InitialState,
    ):
        with pytest.raises(
            TypeError, match=r"expected a recurrent layer of qlstm_core, .* got torch.nn.*LSTM"
        ):
            start(nn.LSTM(3, 5))
    with pytest.raises(TypeError, match="record_states: expected"), record_states(nn.LSTM(3, 5)):
        pass


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gains_do_not_start_from_what_is_not_finite(value: float) -> None:
    layer = LSTM(3, 4, normalizer=RowGain())
    before = copy.deepcopy(layer.state_dict())
    for batch in (torch.full((2, 3, 3), value), torch.ones(0, 3, 3)):
        with pytest.raises(ValueError, match="empty, or has numbers that are not finite"):
            init.data_start_(layer, batch)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_a_negative_number_of_sequences_has_no_state() -> None:
    with pytest.raises(ValueError, match="must be from 0, got -1"):
        InitialState(LSTM(2, 3))(-1)
