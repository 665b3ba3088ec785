"""What a run starts from: gains from its first batch, learned initial states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from qlstm_bench.config import ConfigError
from qlstm_bench.training.run import resolve, train
from qlstm_bench.training.start import check_initial_state, start_from_data
from qlstm_core import LSTM, InitialState, record_states
from qlstm_core.plugins import PluginError

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def settings_of(task: str, tiny: dict[str, Any], folder: Path) -> dict[str, Any]:
    if task != "classify":
        return {**tiny, "task": task} | ({"proj": 4} if task.startswith("large") else {})
    rng = np.random.default_rng(0)
    np.savez(folder / "x.npz", x=rng.normal(size=(60, 5)), y=np.arange(60) % 3)
    return {**tiny, "task": task, "data": str(folder / "x.npz"), "unroll": None}


@pytest.mark.parametrize("task", ["char-lm", "word-lm", "large-vocab-lm:samples=4", "classify"])
def test_gains_start_from_the_first_batch_of_every_task(
    task: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    settings = settings_of(task, tiny, tmp_path) | {
        "quantizer": "bwn",
        "normalizer": "weight",
        "dropout": 0.0,
    }
    config, prepared = resolve({**settings, "data_start": True, "batch": 8})
    prepared.prepare(config)
    model: Any = prepared.model("bwn", "weight")
    before = model.recurrent.normalizers["hh_l0"].gain.clone()
    start_from_data(prepared, model)
    with record_states(model.recurrent) as traces, torch.no_grad():
        prepared.loss(model, prepared.batch(0), None)
    for values, distance in ((traces[0].x, 0.001), (traces[0].r, 0.02)):
        deviation = torch.cat(values).std(0, correction=0)
        torch.testing.assert_close(deviation, torch.ones_like(deviation), rtol=0, atol=distance)
    assert (model.recurrent.normalizers["hh_l0"].gain != before).all()


def test_a_run_trains_on_from_these_gains(tiny: dict[str, Any], tmp_path: Path) -> None:
    settings = {**tiny, "normalizer": "weight", "steps": 1, "lr": 1e-9}
    gains = {
        started: load_file(
            train({**settings, "data_start": started}, tmp_path).run.directory / "model.safetensors"
        )["recurrent.normalizers.ih_l0.gain"]
        for started in (True, False)
    }
    # One-hot characters through rows of length g: from torch's start ±0.02, and unit variance from data.
    assert float(gains[False].mean()) < 1 < 2 < float(gains[True].mean())


@pytest.mark.parametrize("normalizer", ["none", "layer", "batch-shared"])
def test_normalisers_without_gains_of_weights_are_refused(normalizer: str) -> None:
    with pytest.raises(
        ConfigError, match=f"data_start: normalizer '{normalizer}' has no gains .*expected weight"
    ):
        resolve({"task": "char-lm", "steps": 1, "normalizer": normalizer, "data_start": True})


def test_the_inputs_quantizer_gets_its_one_spelling() -> None:
    settings = {"task": "char-lm", "steps": 1, "quantizer": "bwn"}
    config, _ = resolve({**settings, "input_quantizer": "bwn:per_row=false"})
    assert config.input_quantizer == "bwn"
    with pytest.raises(PluginError, match="did you mean 'twn'"):
        resolve({**settings, "input_quantizer": "twm"})
    with pytest.raises(ConfigError, match="optimizer: quantizer 'lab' weighs errors"):
        resolve({**settings, "input_quantizer": "lab", "optimizer": "sgd"})


@pytest.mark.parametrize("task", ["char-lm", "word-lm", "large-vocab-lm:samples=4", "classify"])
def test_models_begin_from_what_they_have_learnt(task: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    config, prepared = resolve(
        settings_of(task, tiny, tmp_path) | {"initial_state": "learned", "dropout": 0.0}
    )
    prepared.prepare(config)
    model: Any = prepared.model("none", "none").eval()
    assert isinstance(model.initial_state, InitialState)
    for parameter in model.initial_state.parameters():
        torch.nn.init.normal_(parameter)
    symbols = prepared.batch(0)[0]
    given: list[Any] = []
    model.recurrent.register_forward_pre_hook(lambda layer, args: given.append(args[1]))
    model(symbols)
    for state, learned in zip(given[0], model.initial_state.parameters(), strict=True):
        assert torch.equal(state, learned.expand(-1, symbols.shape[1], -1))
    if task != "classify":
        carried: tuple[Tensor, ...] = tuple(torch.randn_like(state) for state in given[0])
        model(symbols, carried)
        assert all(a is b for a, b in zip(given[1], carried, strict=True))
    check_initial_state(model, config)
    loss, _ = prepared.loss(model.train(), prepared.batch(0), None)
    loss.backward()
    assert all(parameter.grad.any() for parameter in model.initial_state.parameters())


def test_a_model_that_learns_no_initial_state_is_refused() -> None:
    config, _ = resolve({"task": "char-lm", "steps": 1, "initial_state": "learned"})
    with pytest.raises(
        ConfigError, match="initial_state: the model of task char-lm learns none; expected zeros"
    ):
        check_initial_state(LSTM(3, 4), config)


def test_how_often_a_run_validates_does_not_change_its_training(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Though noise is drawn in validation too."""
    settings = {**tiny, "initial_state": "learned", "initial_state_noise": 0.5, "batch": 8, "unroll": 60}
    often, seldom = (
        load_file(train({**settings, "eval_every": every}, tmp_path).run.directory / "model.safetensors")
        for every in (1, 12)
    )
    assert often.keys() == seldom.keys()
    assert all(torch.equal(often[name], seldom[name]) for name in often)
