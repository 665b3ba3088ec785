"""What the fused route saves, and derivatives beyond the first: they come from the readable loop."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

from qlstm_core import GRU, LSTM, readable_loop
from qlstm_core.layers.fused import function
from qlstm_core.layers.fused.tape import Tape

NORMALIZERS = ["layer", "rms", "batch-shared", "layer:cell=true"]


def _layer(normalizer: str, cell: Any = LSTM) -> Any:
    torch.manual_seed(0)
    layer = cell(3, 5, normalizer=normalizer, dtype=torch.float64)
    for norm in layer.normalizers.values():
        norm.eps = 0.1
    assert {route.kind for route in layer.routes()} == {"fused"}
    return layer


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_gradients_of_gradients(normalizer: str) -> None:
    layer = _layer(normalizer)
    x = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], x, check_batched_grad=False)


@pytest.mark.parametrize("cell", [GRU, partial(LSTM, proj_size=2)], ids=["gru", "projected"])
@pytest.mark.parametrize("normalizer", ["layer", "batch-shared"])
def test_a_gradient_penalty_equals_that_of_the_loop(normalizer: str, cell: Any) -> None:
    layer = _layer(normalizer, cell)
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
