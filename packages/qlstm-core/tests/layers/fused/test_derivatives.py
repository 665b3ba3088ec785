"""What the fused route saves, and derivatives beyond the first: they come from the readable loop."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from fused_cases import CELLS, NORMALIZERS, normalizer
from right_plugins import UnitRows
from torch.autograd import forward_ad

from qlstm_core import GRU, LSTM, RecurrentLayer, readable_loop
from qlstm_core.layers.fused import function
from qlstm_core.layers.fused.tape import Tape


def _layer(name: str, cell: Any = LSTM, norm_cell: bool = False) -> Any:
    torch.manual_seed(0)
    layer = cell(3, 5, normalizer=normalizer(name, cell=norm_cell, eps=0.1), dtype=torch.float64)
    assert {route.kind for route in layer.routes()} == {"fused"}
    return layer


@pytest.mark.parametrize(
    ("name", "norm_cell"), [("layer", False), ("rms", False), ("batch-shared", False), ("layer", True)]
)
def test_gradients_of_gradients(name: str, norm_cell: bool) -> None:
    layer = _layer(name, norm_cell=norm_cell)
    x = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], x, check_batched_grad=False)


@pytest.mark.parametrize("cell", [GRU, partial(LSTM, proj_size=2)], ids=["gru", "projected"])
@pytest.mark.parametrize("name", ["layer", "batch-shared"])
def test_a_gradient_penalty_equals_that_of_the_loop(name: str, cell: Any) -> None:
    layer = _layer(name, cell)
    x = torch.randn(4, 6, 3, dtype=torch.float64, requires_grad=True)

    def penalty(layer: Any) -> list[torch.Tensor]:
        (slope,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
        return list(torch.autograd.grad(slope.square().sum(), list(layer.parameters())))

    loop = copy.deepcopy(layer)
    got = penalty(layer)
    with readable_loop():
        expected = penalty(loop)
    for mine, their in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-10, atol=1e-10)


# torch's own: loading the rules of forward-mode differentiation.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("of", ["input", "weight", "gain"])
def test_forward_mode_equals_reverse_mode(of: str) -> None:
    layer = _layer("layer").requires_grad_(False)
    x = torch.randn(3, 4, 3, dtype=torch.float64)
    name = {"input": "", "weight": "weight_hh_l0", "gain": "normalizers.hh_l0.gain"}[of]
    point = x if of == "input" else layer.get_parameter(name).detach()

    def run(value: torch.Tensor) -> torch.Tensor:
        given = {} if of == "input" else {name: value}
        y, _ = torch.func.functional_call(layer, given, (value if of == "input" else x,))
        return torch.as_tensor(y)

    direction, weight = torch.randn_like(point), torch.randn(3, 4, 5, dtype=torch.float64)
    leaf = point.clone().requires_grad_()
    (slope,) = torch.autograd.grad((run(leaf) * weight).sum(), leaf)
    expected = (slope * direction).sum()
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(run(forward_ad.make_dual(point, direction))).tangent
    torch.testing.assert_close((tangent * weight).sum(), expected)
    _, tangent = torch.func.jvp(run, (point,), (direction,))
    torch.testing.assert_close((tangent * weight).sum(), expected)


def test_evaluation_without_gradients_saves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tapes: list[Tape] = []
    new = Tape.new

    def spy(*args: Any, **options: Any) -> Tape:
        tapes.append(new(*args, **options))
        return tapes[-1]

    monkeypatch.setattr(function.Tape, "new", spy)
    layer = _layer("layer").eval()
    saved: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.no_grad():
            without, _ = layer(x := torch.randn(50, 4, 3, dtype=torch.float64))
        assert saved == []
        assert [len(tape.p) for tape in tapes] == [4]
        with_gradients, _ = layer(x)
    assert len(tapes[1].p) == 200
    assert saved
    torch.testing.assert_close(without, with_gradients, rtol=0, atol=0)


# torch's own: oneDNN has no projections.
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(
    ("name", "norm_cell"),
    [*((name, False) for name in ("none", "weight", *NORMALIZERS)), ("layer", True), ("batch-shared", True)],
)
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_by_finite_differences(cell: str, name: str, norm_cell: bool) -> None:
    """Every cell with every normaliser, also on the routes that take those without statistics."""
    # A larger ε keeps the first step, whose state is zero, smooth enough for differences.
    chosen: Any = {"none": "none", "weight": UnitRows()}.get(name)
    if chosen is None:
        chosen = normalizer(name, cell=norm_cell, eps=0.1)
    torch.manual_seed(0)
    options = {"normalizer": chosen, "dtype": torch.float64}
    if cell == "gru" and norm_cell:
        with pytest.raises(ValueError, match="no cell state"):
            GRU(2, 3, **options)
        return
    layer: RecurrentLayer = CELLS[cell](2, 4, **options)
    x = torch.randn(2, 3, layer.input_size, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    buffers = {key: value.clone() for key, value in layer.named_buffers()}

    def call(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        state = dict(zip(names, values, strict=True)) | {k: v.clone() for k, v in buffers.items()}
        return torch.as_tensor(torch.func.functional_call(layer, state, (x,))[0])

    assert torch.autograd.gradcheck(call, (x, *parameters))
