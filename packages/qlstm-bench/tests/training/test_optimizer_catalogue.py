"""Optimizers by name: torch's own step for step, those of plugins, and what each is found to keep."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hook_examples import example
from safetensors.torch import load_file
from torch import Tensor, nn

from qlstm_bench.config import ConfigError
from qlstm_bench.training.folder import Run
from qlstm_bench.training.optimizer_catalogue import (
    OptimizerSpec,
    build_optimizer,
    canonical_optimizer,
    check_optimizer,
    keeps_second_moments,
    optimizers_of,
    optimizers_with_second_moments,
    takes_sparse_gradients,
)
from qlstm_bench.training.run import resolve, train
from qlstm_core.plugins import PluginError, hookimpl, registry

TORCHS = {
    "adadelta": torch.optim.Adadelta, "adafactor": torch.optim.Adafactor, "adam": torch.optim.Adam,
    "adamax": torch.optim.Adamax, "adamw": torch.optim.AdamW, "asgd": torch.optim.ASGD,
    "nadam": torch.optim.NAdam, "radam": torch.optim.RAdam, "rmsprop": torch.optim.RMSprop,
    "rprop": torch.optim.Rprop, "sgd": torch.optim.SGD,
}  # fmt: skip
"""Those that every version of torch we support has, and that start as torch's do."""

OWN = {"adadelta", "adagrad", "adam", "adamw", "nadam", "radam", "rmsprop"}


class Keeping(torch.optim.Optimizer):
    """Divides by the root of the mean square, which it keeps under a name of torch's."""

    def __init__(self, params: Any, lr: float, beta: float = 0.5, name: str = "exp_avg_sq") -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"beta must be from 0 to below 1,\ngot {beta}")
        super().__init__(params, {"lr": lr, "beta": beta})
        self.name = name

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                square = self.state[param].setdefault(self.name, torch.zeros_like(param))
                square.mul_(group["beta"]).addcmul_(param.grad, param.grad, value=1 - group["beta"])
                param.addcdiv_(param.grad, square.sqrt().add_(1e-8), value=-group["lr"])


class Stubborn(torch.optim.Optimizer):
    """Makes no step."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> None:
        raise SystemExit("no\nstep")


def no_optimizer(params: Any, lr: float) -> nn.Module:
    return nn.Linear(1, 1)


def spec(name: str, factory: Any) -> OptimizerSpec:
    return OptimizerSpec(name=name, summary=f"the optimizer {name}", factory=factory)


@pytest.fixture
def strangers() -> Iterator[None]:
    specs = [
        spec("keeping", Keeping), spec("stubborn", Stubborn), spec("no-optimizer", no_optimizer),
        spec("module", nn.Linear), spec("radam", Keeping), spec("absent", "no_such_module:Optimizer"),
    ]  # fmt: skip
    plugin = ModuleType("strange_optimizers")
    plugin.qlstm_optimizers = hookimpl(lambda: specs)  # type: ignore[attr-defined]
    registry.register(plugin, "strange-optimizers")
    yield
    registry.unregister("strange-optimizers")


def descend(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the weights after each of five steps down a quadratic, at a learning rate that changes."""
    (weight,) = optimizer.param_groups[0]["params"]
    seen = []
    for step in range(5):
        optimizer.zero_grad()
        (weight * torch.arange(6.0).view(2, 3)).square().sum().backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.5 if step == 2 else 1
        seen.append(weight.detach().clone())
    return seen


@pytest.mark.parametrize("name", TORCHS)
def test_a_name_is_torchs_class_in_small_letters(name: str) -> None:
    """With its defaults: five steps are the same, bit for bit."""
    built = build_optimizer(name, [{"params": [nn.Parameter(torch.ones(2, 3))]}], 0.1)
    assert type(built) is TORCHS[name]
    theirs = TORCHS[name]([nn.Parameter(torch.ones(2, 3))], lr=0.1)
    for one, other in zip(descend(built), descend(theirs), strict=True):
        assert torch.equal(one, other)


def test_all_of_torchs_are_there_but_those_that_cannot_train_a_network() -> None:
    known = {name.lower() for name in vars(torch.optim) if name[0].isupper()}
    names = set(optimizers_of(registry).names())
    assert known - names == {"optimizer", "lbfgs", "sparseadam"}
    assert names >= TORCHS.keys() | {"adagrad"}
    (record,) = [record for record in registry.plugins() if record.name == "qlstm-bench:bench"]
    assert set(record.provides["optimizer"]) == names


def test_options_reach_the_class() -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    built = build_optimizer(
        "adam:betas=(0.5,0.25),weight_decay=0.5,amsgrad=true", [{"params": [weight]}], 0.1
    )
    (group,) = built.param_groups
    assert (group["betas"], group["weight_decay"], group["amsgrad"]) == ((0.5, 0.25), 0.5, True)
    adagrad = build_optimizer("adagrad", [{"params": [weight]}], 0.1)
    assert adagrad.state[weight]["sum"].eq(1 / 400).all(), (
        "as Kuchaiev and Ginsburg's, for a mean of 20 steps"
    )
    other = build_optimizer("adagrad:initial_accumulator_value=0", [{"params": [weight]}], 0.1)
    assert other.state[weight]["sum"].eq(0).all()


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("adamw:weight_decay=0.01", "adamw"),
        ("adamw:weight_decay=0.02,eps=1e-8", "adamw:weight_decay=0.02"),
        ("adam:eps=1e-6,betas=(0.9, 0.95)", "adam:betas=(0.9,0.95),eps=1e-06"),
        ("qlstm-bench/sgd", "sgd"),
        ("adagrad:initial_accumulator_value=0.0025", "adagrad"),
        ("rmsprop:alpha=0.9", "rmsprop:alpha=0.9"),
    ],
)
def test_one_spelling(text: str, canonical: str) -> None:
    assert canonical_optimizer(text) == canonical
    assert resolve({"task": "digits", "steps": 1, "optimizer": text})[0].optimizer == canonical


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adm", "unknown optimizer 'adm' (did you mean 'adam' or "),
        ("adamw:wieght_decay=1", "optimizer 'adamw' has no option 'wieght_decay' (did you mean 'weigh"),
        ("adamw:params=1", "optimizer 'adamw' has no option 'params'; allowed: betas, eps, weight_dec"),
        ("rmsprop:alpha=x", "optimizer 'rmsprop': option 'alpha' must be a number, got 'x'"),
        ("adam:betas=0.9", "optimizer 'adam': option 'betas' must be values in parentheses, as in (1,2)"),
        ("adam:lr=0.1", "optimizer: 'adam:lr=0.1' gives the learning rate, which is a setting of its own: "),
        ("adam:betas=(2,0.5)", "optimizer 'adam:betas=(2,0.5)': Invalid beta parameter at index 0: 2"),
        ("sgd:nesterov=true", "optimizer 'sgd:nesterov=true': Nesterov momentum requires a momentum"),
        ("keeping:beta=1", "optimizer 'keeping:beta=1.0': beta must be from 0 to below 1, got 1.0"),
        ("stubborn", "optimizer 'stubborn' makes no step: SystemExit: no step"),
        ("no-optimizer", "optimizer 'no-optimizer': its factory returned Linear, not Optimizer"),
        ("module", "optimizer 'module' of strange-optimizers: its factory is the class Linear, which is no "),
        ("absent", "optimizer 'absent' of strange-optimizers cannot be loaded from 'no_such_module:Opti"),
        ("strange-optimizers/radam:alpha=1", "optimizer 'radam' has no option 'alpha'; allowed: beta, name"),
        (3, "optimizer must be a name, as text, got 3"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_before_training(strangers: None, text: Any, message: str) -> None:
    with pytest.raises((ConfigError, PluginError)) as caught:
        resolve({"task": "digits", "steps": 1, "optimizer": text})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_taken_name_is_asked_for_with_its_distribution(strangers: None) -> None:
    with pytest.raises(PluginError, match=r"write 'qlstm-bench/radam' or 'strange-optimizers/radam'"):
        canonical_optimizer("radam")
    built = build_optimizer("strange-optimizers/radam", [{"params": [nn.Parameter(torch.ones(2))]}], 0.1)
    assert type(built) is Keeping


def test_parameters_that_an_optimizer_refuses_are_one_line(tiny: dict[str, Any], tmp_path: Path) -> None:
    if "muon" not in optimizers_of(registry).names():
        pytest.skip("this version of torch has no optimizer that refuses biases")
    with pytest.raises(ConfigError, match="optimizer 'muon': Muon only supports 2D parameters"):
        train({**tiny, "optimizer": "muon"}, tmp_path)
    assert list(tmp_path.glob("*/config.yaml")) == []


def test_second_moments_are_seen_in_what_an_optimizer_keeps(strangers: None) -> None:
    """A stranger's counts under a name of torch's; averages of rows and columns, and largest ones, do not."""
    names = set(optimizers_with_second_moments())
    assert names == {name.replace("radam", "qlstm-bench/radam") for name in OWN} | {
        "keeping", "strange-optimizers/radam",
    }  # fmt: skip
    assert keeps_second_moments("keeping:beta=0.9")
    assert not keeps_second_moments("keeping:name=mine")
    for name in ("adafactor", "adamax", "sgd", "sgd:momentum=0.9", "rprop", "asgd"):
        assert not keeps_second_moments(name)


@pytest.mark.parametrize("optimizer", ["radam", "rmsprop:alpha=0.9", "keeping"])
def test_loss_aware_quantizers_train_with_any_that_keeps_them(
    strangers: None, tiny: dict[str, Any], tmp_path: Path, optimizer: str
) -> None:
    """The curvature that LAB sees is what the optimizer keeps, after the last step."""
    text = f"qlstm-bench/{optimizer}" if optimizer == "radam" else optimizer
    settings = {**tiny, "quantizer": "lab", "normalizer": "layer", "checkpoint_seconds": 0, "optimizer": text}
    checkpoint = train(settings, tmp_path).run.load_checkpoint()
    assert checkpoint is not None
    key = "square_avg" if optimizer.startswith("rmsprop") else "exp_avg_sq"
    moments = [state[key] for state in checkpoint["optimizer"]["state"].values()]
    curvatures = [tensor for name, tensor in checkpoint["model"].items() if "curvature_" in name]
    assert len(curvatures) == 2
    for curvature in curvatures:
        assert any(torch.equal(curvature, moment) for moment in moments if moment.shape == curvature.shape)


def test_sparse_gradients_are_for_those_that_step_along_them(strangers: None) -> None:
    took = {name for name in (*TORCHS, "adagrad") if name != "radam" and takes_sparse_gradients(name, 0.1)}
    assert took == {"sgd", "adagrad"}
    assert takes_sparse_gradients("sgd:momentum=0.5", 0.1)
    assert not takes_sparse_gradients("sgd:weight_decay=0.5", 0.1)
    assert not takes_sparse_gradients("keeping", 0.1)
    assert not takes_sparse_gradients("stubborn", 0.1)


def test_the_optimizer_of_the_hooks_example_trains_and_goes_on_bit_for_bit(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    """Steps of one length, each the learning rate: none is longer than as many as there were."""
    registry.register(example("qlstm_optimizers"), "third-party")
    settings = {**tiny, "optimizer": "sign-descent:weight_decay=0.0", "checkpoint_seconds": 0}

    def interrupt(step: int, steps: int, figures: object) -> None:
        if step == 6:
            raise KeyboardInterrupt

    try:
        whole = train(settings, tmp_path / "whole").run
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "halves", listen=interrupt)
        halves = train(settings, tmp_path / "halves").run
    finally:
        registry.unregister("third-party")
    assert whole.config.optimizer == "sign-descent"
    ends = [load_file(run.directory / "model.safetensors") for run in (whole, halves)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    start = _start_of(whole)
    for name, value in ends[0].items():
        moves = (value - start[name]).abs() / tiny["lr"]
        assert moves.max() <= 12 + 1e-3
        assert (moves - moves.round()).abs().max() < 1e-3, "whole steps"


def _start_of(run: Run) -> dict[str, Tensor]:
    """Return the weights that a run starts from."""
    config, task = resolve(run.config.model_dump() | {"optimizer": "adam"})
    task.prepare(config)
    torch.manual_seed(config.seed)
    return dict(task.model(config.quantizer, config.normalizer).state_dict())


def test_check_leaves_torchs_own_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step imports half of torch: a sweep of a thousand runs lists them without it."""
    monkeypatch.setattr("qlstm_bench.training.optimizer_catalogue.build_optimizer", lambda *_: math.nan / 0)
    check_optimizer("adamw", 0.1)
    with pytest.raises(ZeroDivisionError):
        check_optimizer("adamw:eps=0.1", 0.1)
