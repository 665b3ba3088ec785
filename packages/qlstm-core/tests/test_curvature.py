"""Second moments: the optimizer's own, at the quantizer, at every step."""

from __future__ import annotations

import pytest
import torch
from recurrent_cases import Sign
from torch import Tensor, nn

from qlstm_core import LSTM, track_curvature
from qlstm_core.curvature import second_moments


class Weighted(Sign):
    """Keeps what it was given."""

    needs_curvature = True
    seen: Tensor | None = None

    def forward(self, weight: Tensor, curvature: Tensor | None = None) -> Tensor:
        assert curvature is not None
        self.seen = curvature.clone()
        return super().forward(weight)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(LSTM(3, 4, 2, quantizer={"hh": Weighted()}))


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    net(torch.randn(5, 2, 3))[0].square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("optimizer_type", "key"),
    [
        (torch.optim.Adam, "exp_avg_sq"),
        (torch.optim.AdamW, "exp_avg_sq"),
        (torch.optim.RMSprop, "square_avg"),
        (torch.optim.Adagrad, "sum"),
        (torch.optim.Adadelta, "square_avg"),
        (torch.optim.RAdam, "exp_avg_sq"),
        (torch.optim.NAdam, "exp_avg_sq"),
    ],
)
def test_quantizers_see_the_optimizers_second_moments(
    optimizer_type: type[torch.optim.Optimizer], key: str
) -> None:
    net = model()
    layer = net[0]
    optimizer = optimizer_type(net.parameters())
    handle = track_curvature(net, optimizer)
    for _ in range(2):
        step(net, optimizer)
    net(torch.randn(5, 2, 3))
    for k in range(2):
        moment = optimizer.state[layer.get_parameter(f"weight_hh_l{k}")][key]
        assert torch.equal(layer.quantizers[f"hh_l{k}"].seen.flatten(0, 1), moment)
        assert moment.max() > 0
    handle.remove()
    before = layer.curvature_hh_l0.clone()
    step(net, optimizer)
    assert torch.equal(layer.curvature_hh_l0, before)


def test_ones_before_the_first_step_and_part_of_the_state() -> None:
    layer = model()[0]
    layer(torch.randn(5, 2, 3))
    assert torch.equal(layer.quantizers["hh_l0"].seen, torch.ones(4, 4, 4))
    assert {"curvature_hh_l0", "curvature_hh_l1"} <= set(layer.state_dict())


class Bare(torch.optim.Optimizer):
    """Third-party, without second moments, which shows only in its state."""

    def __init__(self, params: object) -> None:
        super().__init__(params, {})

    def step(self, closure: object = None) -> None:
        for p in self.param_groups[0]["params"]:
            self.state[p]["momentum"] = p.grad


def test_optimizers_without_second_moments() -> None:
    net = model()
    with pytest.raises(TypeError, match=r"SGD keeps no second moments.*use Adam"):
        track_curvature(net, torch.optim.SGD(net.parameters(), lr=0.1))
    bare = Bare(net.parameters())
    track_curvature(net, bare)
    with pytest.raises(TypeError, match="Bare keeps no second moments"):
        step(net, bare)
    net = model()
    factored = torch.optim.Adafactor(net.parameters())
    track_curvature(net, factored)
    with pytest.raises(TypeError, match="Adafactor keeps no second moments"):
        step(net, factored)


def test_an_average_counts_that_has_the_shape_of_the_weight() -> None:
    weight = torch.zeros(2, 3)
    whole, rows = torch.ones(2, 3), torch.ones(2, 1)
    assert second_moments({"step": torch.tensor(1.0), "exp_avg_sq": whole}, weight) is whole
    assert second_moments({"exp_avg_sq": rows, "square_avg": whole}, weight) is whole
    assert second_moments({"exp_avg_sq": rows}, weight) is None
    assert second_moments({"exp_avg": whole}, weight) is None


def test_nothing_to_track() -> None:
    net = model()
    with pytest.raises(ValueError, match=r"does not hold 0.weight_hh_l0"):
        track_curvature(net, torch.optim.Adam([net[0].weight_ih_l0]))
    plain = LSTM(3, 4)
    with pytest.raises(ValueError, match="nothing to do"):
        track_curvature(plain, torch.optim.Adam(plain.parameters()))


MOVES = {
    "another dtype": lambda net, optimizer: net.double(),
    "new buffers": lambda net, optimizer: net._apply(torch.clone),
    "a loaded optimizer": lambda net, optimizer: optimizer.load_state_dict(optimizer.state_dict()),
    "one more group": lambda net, optimizer: optimizer.add_param_group(
        {"params": [nn.Parameter(torch.zeros(1))]}
    ),
}


@pytest.mark.parametrize("move", MOVES)
def test_curvature_follows(move: str) -> None:
    net = model()
    layer = net[0]
    optimizer = torch.optim.Adam(net.parameters())
    track_curvature(net, optimizer)
    if move != "another dtype":  # which Adam itself can only take at the start
        step(net, optimizer)
    MOVES[move](net, optimizer)
    optimizer.zero_grad()
    net(torch.randn(5, 2, 3, dtype=layer.dtype))[0].square().sum().backward()
    optimizer.step()
    moment = optimizer.state[layer.weight_hh_l1]["exp_avg_sq"]
    assert torch.equal(layer.curvature_hh_l1, moment.to(layer.dtype))
    assert layer.curvature_hh_l1.dtype == layer.dtype


def test_a_weight_that_another_has_replaced_is_named_at_the_next_step() -> None:
    net = model()
    optimizer = torch.optim.Adam(net.parameters())
    track_curvature(net, optimizer)
    step(net, optimizer)
    net.load_state_dict({name: t.clone() for name, t in net.state_dict().items()}, assign=True)
    with pytest.raises(
        ValueError, match=r"no longer holds 0.weight_hh_l0: another.*make the optimizer again"
    ):
        step(net, optimizer)
