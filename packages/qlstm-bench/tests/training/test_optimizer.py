"""Optimizers, learning rates and when they change, early stop, averages and clipping."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.training.optimizer import (
    Schedule,
    WeightAverage,
    clip_gradients_,
    has_unit_levels,
    make_optimizer,
    quantized_weights,
)
from qlstm_bench.training.run import resolve, train
from qlstm_core import LSTM


def config(**settings: Any) -> RunConfig:
    return RunConfig.build(
        {"data": "x", "hidden": 4, "batch": 2, "lr": 0.5, "clip": 1.0, "steps": 1, **settings}
    )


class Net(nn.Module):
    """A recurrent layer and another one."""

    def __init__(self, quantizer: str = "none") -> None:
        super().__init__()
        self.recurrent = LSTM(3, 4, num_layers=2, quantizer=quantizer)
        self.output = nn.Linear(4, 2)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adam", torch.optim.Adam),
        ("sgd:momentum=0.9", torch.optim.SGD),
        ("adagrad", torch.optim.Adagrad),
        ("radam", torch.optim.RAdam),
    ],
)
def test_optimizers_hold_every_parameter_once(name: str, kind: type) -> None:
    net = Net("binary-connect")
    optimizer = make_optimizer(net, config(optimizer=name), 3.0)
    assert type(optimizer) is kind
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 1.5]
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, net.parameters()))
    fast = {id(p) for p in optimizer.param_groups[1]["params"]}
    assert fast == {id(p) for name, p in net.named_parameters() if ".weight_" in name}
    assert fast == set(map(id, quantized_weights(net)))
    plain = make_optimizer(net, config(optimizer=name, quantized_lr=1.0), 3.0)
    assert [group["lr"] for group in plain.param_groups] == [0.5, 0.5]
    unquantized = make_optimizer(Net(), config(optimizer=name), 3.0)
    assert [group["lr"] for group in unquantized.param_groups] == [0.5]


def test_gains_may_have_a_learning_rate_of_their_own() -> None:
    net = Net("binary-connect")
    net.recurrent = LSTM(3, 4, num_layers=2, quantizer="binary-connect", normalizer="layer:cell=true")
    optimizer = make_optimizer(net, config(gain_lr=10.0), 3.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 1.5, 5.0]
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, net.parameters()))
    gains = {id(p) for name, p in net.named_parameters() if name.endswith(".gain")}
    assert len(gains) == 6
    assert {id(p) for p in optimizer.param_groups[2]["params"]} == gains
    assert [group["lr"] for group in make_optimizer(net, config(), 1.0).param_groups] == [0.5, 0.5]


def test_loss_aware_quantizers_refuse_sgd() -> None:
    keeping = "expected one of adadelta, adagrad, adam, adamw, nadam, radam, rmsprop$"
    with pytest.raises(ConfigError, match=rf"optimizer: quantizer 'lab' .*, and sgd keeps none; {keeping}"):
        resolve({"task": "word-lm", "quantizer": "lab", "steps": 1})
    with pytest.raises(ConfigError, match=r"state_quantizer: 'lat' weighs .* and a state has none; expected"):
        resolve({"task": "word-lm", "state_quantizer": "lat", "optimizer": "adagrad", "steps": 1})
    with pytest.raises(ConfigError, match=r"optimizer: quantizer 'lat' .*sgd keeps none"):
        resolve({"task": "word-lm", "head_quantizer": "lat", "steps": 1})
    resolved, _ = resolve({"task": "word-lm", "quantizer": "lab", "optimizer": "adagrad", "steps": 1})
    assert resolved.optimizer == "adagrad"


def test_unit_levels_are_told_from_scaled_ones() -> None:
    for quantizer, expected in (("ter-connect", True), ("sbn", False), ("twn", False), ("none", False)):
        assert has_unit_levels(Net(quantizer).recurrent) == expected
    mixed = LSTM(3, 4, quantizer={"ih": "bwn", "hh": "binary-connect"})
    assert not has_unit_levels(mixed)


@pytest.mark.parametrize("sign", [1, -1])
def test_rates_fall_when_validation_stalls(sign: int) -> None:
    optimizer = torch.optim.SGD(
        [{"params": [torch.zeros(1)]}, {"params": [torch.ones(1)], "lr": 8.0}], lr=4.0
    )
    schedule = Schedule(config(stall_divisor=4.0, patience=2), optimizer, higher_is_better=sign > 0)
    assert schedule.validated(sign * 1.0)
    assert schedule.validated(sign * 2.0)
    assert not schedule.validated(sign * 2.0)
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 2.0]
    assert not schedule.exhausted
    assert not schedule.validated(math.nan)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.5]
    assert schedule.exhausted
    again = Schedule(config(stall_divisor=4.0, patience=2), optimizer, higher_is_better=sign > 0)
    again.load_state_dict(schedule.state_dict())
    assert again.exhausted
    assert again.validated(sign * 2.5)
    assert not again.exhausted


def test_rates_fall_after_epochs() -> None:
    optimizer = make_optimizer(Net("bwn"), config(lr=1.0), 3.0)
    schedule = Schedule(config(epoch_decay=0.5, epoch_decay_after=2), optimizer, higher_is_better=False)
    rates = []
    for epoch in range(1, 5):
        schedule.epoch_ended(epoch)
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert rates == [[1.0, 3.0], [1.0, 3.0], [0.5, 1.5], [0.25, 0.75]]


def test_the_authors_characters_decay_by_two_per_cent_after_the_tenth_epoch() -> None:
    """After 200 epochs the quantized weights' rate is a 46th of the others'."""
    settings = {"lr": 0.002, "epoch_decay": 0.98, "epoch_decay_after": 10, "decay_of": "quantized"}
    optimizer = make_optimizer(Net("bwn"), config(**settings), 1.0)
    schedule = Schedule(config(**settings), optimizer, higher_is_better=False)
    for epoch in range(1, 201):
        schedule.epoch_ended(epoch)
    others, quantized = optimizer.param_groups
    assert others["lr"] == 0.002
    assert quantized["lr"] == pytest.approx(0.002 * 0.98**190)
    assert others["lr"] / quantized["lr"] == pytest.approx(46.5, abs=0.1)


def test_patience_goes_back_to_the_best() -> None:
    assert config(patience=2).tested == "best"
    assert config().tested == "last"
    with pytest.raises(ConfigError, match=r"^tested=last, and patience=2 goes back to the best weights: exp"):
        config(patience=2, tested="last")


def test_a_run_stops_when_its_patience_ends_and_keeps_the_best(tiny: dict[str, Any], tmp_path: Path) -> None:
    """At a learning rate that only does harm the first validation is the best."""
    settings = {**tiny, "lr": 10.0, "steps": 40, "eval_every": 2, "patience": 3, "checkpoint_seconds": 0}
    outcome = train(settings, tmp_path / "stopped")
    result = outcome.result
    assert result.status == "completed"
    assert result.stopped_at == result.steps < 40
    rows = {int(row["step"]): row["valid_bpc"] for row in outcome.run.metrics() if "valid_bpc" in row}
    best_step = min(rows, key=lambda step: rows[step])
    assert result.stopped_at == best_step + 6
    assert result.metrics["best_step"] == best_step
    assert result.metrics["valid_bpc"] == rows[best_step] < rows[result.stopped_at]
    # The test figure is the best model's: of a run that ended there.
    shorter = train({**settings, "steps": best_step}, tmp_path / "shorter").result
    assert shorter.metrics["test_bpc"] == result.metrics["test_bpc"]
    assert "stopped early at step" in result.describe() or not result.learnt


def test_the_average_follows_the_weights() -> None:
    net = nn.Linear(2, 1)
    average = WeightAverage(net, 0.75)
    first = net.weight.detach().clone()
    average.update()  # the first step starts the average
    with torch.no_grad():
        net.weight.add_(1.0)
    average.update()
    torch.testing.assert_close(average.module.weight, 0.75 * first + 0.25 * (first + 1))


def test_the_average_of_the_recurrent_layers_stands_beside_the_other_weights() -> None:
    """Its output is that of the averaged layer under the output layer as it is; it takes no second memory."""
    torch.manual_seed(0)
    net = Net("bwn")
    average = WeightAverage(net, 0.75, "recurrent")
    expected: dict[str, torch.Tensor] = {}
    for _ in range(4):
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                parameter.add_(torch.randn_like(parameter))
                kept = 0.75 if name.startswith("recurrent.") else 0.0
                expected[name] = kept * expected.get(name, parameter) + (1 - kept) * parameter
        average.update()
    for name, value in average.module.named_parameters():
        torch.testing.assert_close(value, expected[name])
        assert (value is net.get_parameter(name)) == name.startswith("output.")
    other = Net("bwn")
    again = WeightAverage(other, 0.75, "recurrent")
    again.load_state_dict(average.state_dict())
    for name, value in again.module.named_parameters():
        assert torch.equal(value, average.module.get_parameter(name)) == name.startswith("recurrent.")


def test_an_averaged_run_evaluates_the_average(tiny: dict[str, Any], tmp_path: Path) -> None:
    plain = train({**tiny, "normalizer": "batch-shared"}, tmp_path).result
    averaged_run = train({**tiny, "normalizer": "batch-shared", "average": 0.5}, tmp_path).result
    frozen = train({**tiny, "normalizer": "batch-shared", "average": 0.999999}, tmp_path).result
    figures = [result.metrics["valid_bpc"] for result in (plain, averaged_run, frozen)]
    assert len(set(figures)) == 3
    assert frozen.metrics["best_step"] == 4 or abs(figures[2] - frozen.metrics["best_valid_bpc"]) < 1e-3


def test_clipping_apart_spares_the_output_layer() -> None:
    """One norm over all silences what does not explode; two leave it as it is."""
    torch.manual_seed(0)
    for apart in (False, True):
        net = Net()
        for parameter in net.recurrent.parameters():
            parameter.grad = torch.full_like(parameter, 1e20)
        for parameter in net.output.parameters():
            parameter.grad = torch.full_like(parameter, 0.1)
        count = sum(p.numel() for p in net.recurrent.parameters())
        norm, clipped = clip_gradients_(net, 1.0, "apart" if apart else "global")
        assert norm == pytest.approx(1e20 * math.sqrt(count), rel=1e-6)
        assert clipped
        assert net.output.weight.grad is not None
        if apart:
            torch.testing.assert_close(net.output.weight.grad, torch.full_like(net.output.weight, 0.1))
        else:
            assert net.output.weight.grad.abs().max() < 1e-20
        total = torch.cat([p.grad.flatten() for p in net.recurrent.parameters() if p.grad is not None]).norm()
        torch.testing.assert_close(total, torch.tensor(1.0), rtol=1e-5, atol=0)


def test_the_recurrent_layers_may_be_clipped_alone() -> None:
    """The rest keeps its gradient, however long, and does not count as clipped."""
    for size, clipped in ((3.0, True), (1e-3, False)):
        net = Net()
        for parameter in net.recurrent.parameters():
            parameter.grad = torch.full_like(parameter, size)
        for parameter in net.output.parameters():
            parameter.grad = torch.full_like(parameter, 7.0)
        inner = size * math.sqrt(sum(p.numel() for p in net.recurrent.parameters()))
        outer = 7.0 * math.sqrt(sum(p.numel() for p in net.output.parameters()))
        found = clip_gradients_(net, 1.0, "recurrent")
        assert found.value == pytest.approx(math.hypot(inner, outer))
        assert found.clipped == clipped
        assert all((p.grad == 7.0).all() for p in net.output.parameters() if p.grad is not None)
        total = torch.cat([p.grad.flatten() for p in net.recurrent.parameters() if p.grad is not None]).norm()
        assert total.item() == pytest.approx(min(inner, 1.0), rel=1e-5)
