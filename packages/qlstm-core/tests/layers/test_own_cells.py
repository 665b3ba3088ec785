"""Cells of other gates and states than LSTM and GRU work as those do, or are refused in one line."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_cases import Case, Sign, StepGain, WithCell, cases, run
from right_cells import Coupled, Elman, Exponential, Leak, elman_step, leak_step
from torch import Tensor

from qlstm_core import Cell, RecurrentLayer, pack, record_states
from qlstm_core.layers.cell import GRU_CELL, LSTM_CELL


@settings(max_examples=40)
@given(cases(projection=False))
def test_one_gate_equals_torchs_plain_recurrent_layer(case: Case) -> None:
    theirs = torch.nn.RNN(case.input_size, case.hidden_size, **case.options)
    ours = Elman(case.input_size, case.hidden_size, **case.options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    for mine, their in zip(run(ours, case, ("h",)), run(theirs, case, ("h",)), strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-5)


@settings(max_examples=20)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 9999), st.booleans())
def test_gates_of_the_input_alone_have_a_closed_form(
    steps: int, hidden: int, seed: int, tokens: bool
) -> None:
    """h_T = h_0 Π_k (1 − z_k) + Σ_k z_k n_k Π_{j>k} (1 − z_j)."""
    torch.manual_seed(seed)
    layer = Leak(3, hidden, dtype=torch.float64, quantizer=Sign(), normalizer=StepGain())
    codes = torch.randint(3, (steps, 2))
    x = torch.nn.functional.one_hot(codes, 3).double() if tokens else torch.randn(steps, 2, 3).double()
    h0 = torch.randn(1, 2, hidden, dtype=torch.float64)
    found, final = layer(codes if tokens else x, h0)
    weight = torch.where(layer.weight_ih_l0 < 0, -1.0, 1.0).double()
    gain = torch.linspace(0.5, 1.5, hidden).double().repeat(2)
    counts = torch.arange(1, steps + 1).view(-1, 1, 1)
    gates = x @ weight.t() * gain / counts + layer.bias_ih_l0
    z, new = gates[..., :hidden].sigmoid(), gates[..., hidden:]
    kept = 1 - z
    expected = h0[0] * kept.prod(0) + sum(z[k] * new[k] * kept[k + 1 :].prod(0) for k in range(steps))
    torch.testing.assert_close(found[-1], expected)
    torch.testing.assert_close(final[0], expected)


def test_four_states_equal_the_equations_without_stabilisation() -> None:
    """h = σ(o) c/n with c = e^f c + e^i tanh(z), n = e^f n + e^i, of the sums of inputs of each step."""
    torch.manual_seed(0)
    layer = Exponential(3, 5, dtype=torch.float64)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    found, states = layer(x)
    c = n = torch.zeros(2, 5, dtype=torch.float64)
    h = torch.zeros(2, 5, dtype=torch.float64)
    for t in range(6):
        bias = layer.bias_ih_l0 + layer.bias_hh_l0
        z, i, f, o = (x[t] @ layer.weight_ih_l0.t() + h @ layer.weight_hh_l0.t() + bias).chunk(4, -1)
        c, n = f.exp() * c + i.exp() * z.tanh(), f.exp() * n + i.exp()
        h = o.sigmoid() * c / n
        torch.testing.assert_close(found[t], h)
    assert [tuple(state.shape) for state in states] == [(1, 2, 5)] * 4
    torch.testing.assert_close(states[1][0] / states[2][0], c / n)


@pytest.mark.parametrize(
    ("family", "names"),
    [(Elman, ("h",)), (Leak, ("h",)), (Coupled, ("h", "c")), (Exponential, ("h", "c", "n", "m"))],
)
def test_every_state_is_recorded_in_the_order_of_time(
    family: type[RecurrentLayer], names: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    layer = family(3, 4, bidirectional=True)
    x = torch.randn(5, 2, 3)
    with record_states(layer) as traces:
        y, final = layer(x)
    finals = (final,) if isinstance(final, Tensor) else final
    for direction, trace in enumerate(traces):
        assert tuple(trace.states) == names
        torch.testing.assert_close(torch.stack(trace.h), y[..., 4 * direction : 4 * direction + 4])
        last = 0 if direction else -1
        for name, state in zip(names, finals, strict=True):
            torch.testing.assert_close(trace.states[name][last], state[direction])
        assert len(trace.c) == (5 if "c" in names else 0)
        assert len(trace.r) == (5 if layer.cell.recurrent else 0)
        assert {tuple(gates.shape) for gates in trace.x} == {(2, len(layer.cell.gates), 4)}


def test_without_recurrent_weight_there_is_none_to_quantize_or_to_store() -> None:
    layer = Leak(6, 8, 2, quantizer=Sign(), normalizer=StepGain())
    assert [n for n, _ in layer.named_parameters() if "normalizers" not in n] == [
        "weight_ih_l0", "bias_ih_l0", "weight_ih_l1", "bias_ih_l1",
    ]  # fmt: skip
    signs, biases, gains = 2 * 8 * (6 + 8) // 8, 4 * 2 * 16, 4 * 2 * 8
    assert layer.storage_bytes() == signs + biases + gains
    plain = Leak(6, 8)
    assert list(plain.state_dict()) == ["weight_ih_l0", "bias_ih_l0"]
    assert plain.storage_bytes() == 4 * (2 * 8 * 6 + 2 * 8)
    assert [route.kind for route in layer.routes()] == ["loop", "loop"]


def test_a_cell_state_is_normalised_where_the_step_takes_a_normaliser() -> None:
    torch.manual_seed(0)
    layer = Coupled(3, 4, proj_size=2, normalizer=WithCell())
    assert list(layer.normalizers) == ["ih_l0", "hh_l0", "cell_l0"]
    x = torch.randn(3, 2, 3)
    before, (h, c) = layer(x)
    assert (h.shape, c.shape) == ((1, 2, 2), (1, 2, 4))
    with torch.no_grad():
        layer.normalizers["cell_l0"].gain.mul_(2)
    assert not torch.allclose(layer(x)[0], before)


def cell(**fields: Any) -> Cell:
    return Cell(**{"name": "x", "gates": "n", "states": ("h",), "step": elman_step} | fields)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: cell(gates=""), "cell 'x': gates must be different letters, one a gate, got ''"),
        (lambda: cell(gates="nn"), "cell 'x': gates must be different letters, one a gate, got 'nn'"),
        (lambda: cell(name=""), "cell '': name must be printable text, such as 'lstm'"),
        (lambda: cell(states=("c", "h")), "states must be 'h', the output, and then others, got ('c', 'h')"),
        (lambda: cell(states=("h", "h")), "states must be 'h', the output, and then others, got ('h', 'h')"),
        (lambda: cell(states="h"), "states must be a tuple of names such as ('h', 'c'), got 'h'"),
        (lambda: cell(separate="z"), "separate must name gates of 'n', got 'z'"),
        (lambda: cell(step=3), "cell 'x': step must be a function, got 3"),
        (lambda: cell(step=leak_step), "cell 'x': its step must take (x, r, h), got (x: 'Tensor', h:"),
        (lambda: cell(states=("h", "c")), "cell 'x': its step must take (x, r, h, c), got"),
        (lambda: cell(recurrent=False), "cell 'x': its step must take (x, h), got"),
        (
            lambda: cell(step=leak_step, recurrent=False, operator=torch.gru),
            "cell 'x': an operator is called with a recurrent weight, and there is none",
        ),
        (lambda: type("Own", (RecurrentLayer,), {"cell": "x"}), "Own.cell must be a Cell(name, gates, "),
        (lambda: RecurrentLayer(3, 4), "RecurrentLayer has no cell: write cell = Cell(name, gates, "),
        (
            lambda: Leak(3, 4, proj_size=2),
            "Leak has no projection, since cell 'leak' does not declare one: proj_size must be 0, got 2",
        ),
        (lambda: Leak(3, 4, quantizer={"hh": Sign()}), "quantizer has unknown keys ['hh']; allowed: ih"),
        (lambda: Leak(3, 4, normalizer={"hh": "none"}), "normalizer has unknown keys ['hh']; allowed: ih"),
        (lambda: Exponential(3, 4, normalizer=WithCell()), "Exponential has no cell state to normalise"),
        (
            lambda: pack(Leak(3, 4, quantizer=Sign())),
            "cell 'leak' of Leak cannot be packed yet: the kernels know the cells lstm and gru",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_where_it_is_written(build: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        build()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def returns(*results: Any) -> type[RecurrentLayer]:
    """A family whose step returns functions of h."""

    def step(x: Tensor, r: Tensor, h: Tensor, c: Tensor) -> Any:
        made = tuple(result(h) for result in results)
        return made[0] if len(made) == 1 else made

    return type("Own", (RecurrentLayer,), {"cell": cell(step=step, states=("h", "c"))})


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([lambda h: h], "returned Tensor, expected a tuple of tensors (h, c,)"),
        ([lambda h: (h,)], "returned 1 states, expected 2: h, c"),
        ([lambda h: h] * 3, "returned 3 states, expected 2: h, c"),
        ([lambda h: h, lambda h: 0.0], "returned ['Tensor', 'float'], expected a tuple of tensors (h, c,)"),
        (
            [lambda h: h[:, :-1], lambda h: h],
            "returned h of shape (2, 3) in torch.float32 on cpu, expected (2, 4) in torch.float32 on cpu",
        ),
        ([lambda h: h, lambda h: h.unsqueeze(1)], "returned c of shape (2, 1, 4) in torch.float32 on cpu"),
        ([lambda h: h, lambda h: h.double()], "returned c of shape (2, 4) in torch.float64 on cpu, expected"),
        ([lambda h: h[:1], lambda h: h], "returned h of shape (1, 4) in"),
    ],
)  # fmt: skip
def test_a_step_that_returns_something_else_is_named(results: list[Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        returns(*results)(3, 4)(torch.zeros(5, 2, 3))
    assert str(caught.value).startswith(f"cell 'x': its step {message}")


def test_a_state_of_the_wrong_number_or_form_is_named() -> None:
    layer, x, one = Exponential(3, 4), torch.zeros(5, 2, 3), torch.zeros(1, 2, 4)
    with pytest.raises(ValueError, match="Exponential: expected 4 initial states, got 2"):
        layer(x, (one, one))
    with pytest.raises(RuntimeError, match="the 4 states should also be 3-D but got"):
        layer(x, (one, one, one, one[0]))


def test_a_cell_that_differs_in_its_recurrent_side_is_another() -> None:
    """Fused steps, packed kernels and bounds are looked up by the cell."""
    assert replace(LSTM_CELL, operator=None) == LSTM_CELL
    assert replace(GRU_CELL, projection=True) != GRU_CELL
    assert replace(LSTM_CELL, step=partial(LSTM_CELL.step)) != LSTM_CELL
