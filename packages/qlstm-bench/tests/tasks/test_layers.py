"""The recurrent layer that settings ask for, of every family, in every task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.tasks.layers import make_layer
from qlstm_bench.training.run import train
from qlstm_core import GRU, LSTM, FactorizedLSTM, GroupedLSTM
from qlstm_core.plugins import PluginError
from qlstm_quant import TWN


def config(**settings: Any) -> RunConfig:
    return RunConfig.build(
        {"data": "x", "hidden": 8, "batch": 2, "lr": 0.5, "clip": 1.0, "steps": 1, **settings}
    )


def test_settings_reach_the_layer() -> None:
    layer = make_layer(config(layers=2, dropout=0.5), 6, "bwn", "layer")
    assert type(layer) is LSTM
    assert (layer.num_layers, layer.dropout, layer.hidden_size) == (2, 0.5, 8)
    assert repr(layer) == "LSTM(6, 8, num_layers=2, dropout=0.5, quantizer='bwn', normalizer='layer')"
    assert not layer.state_quantizers
    quantized = make_layer(config(state_quantizer="twn"), 6, "bwn", "none")
    assert [type(quantizer) for quantizer in quantized.state_quantizers.values()] == [TWN]
    assert type(make_layer(config(cell="gru"), 6, "none", "none")) is GRU
    factorized = make_layer(config(cell="f-lstm", rank=3, proj=4), 6, "none", "none")
    assert isinstance(factorized, FactorizedLSTM)
    assert (factorized.rank, factorized.proj_size) == (3, 4)
    grouped = make_layer(config(cell="g-lstm", groups=[2, 4], layers=2), 6, "none", "none")
    assert isinstance(grouped, GroupedLSTM)
    assert grouped.groups == (2, 4)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"cell": "lsmt"}, "cell: .*'lstm', 'gru', 'f-lstm' or 'g-lstm', got 'lsmt'"),
        ({"cell": "gru", "proj": 4}, "proj=4 is for cell lstm or f-lstm or g-lstm, and cell is gru"),
        ({"rank": 4}, "rank=4 is for cell f-lstm, and cell is lstm"),
        ({"cell": "f-lstm", "groups": 4}, "groups=4 is for cell g-lstm, and cell is f-lstm"),
    ],
)
def test_options_of_another_cell_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        config(**settings)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"cell": "g-lstm", "groups": 3},
            "g-lstm of hidden 8 on 6 inputs: hidden_size must be divisible by groups=3",
        ),
        ({"cell": "f-lstm", "rank": 99}, "f-lstm of hidden 8 on 6 inputs: rank must be an int from 1 to 14"),
        ({"proj": 8}, "proj_size has to be smaller than hidden_size"),
    ],
)
def test_sizes_that_do_not_fit_are_named(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_layer(config(**settings), 6, "none", "none")


def test_an_unknown_name_keeps_its_own_error() -> None:
    with pytest.raises(PluginError, match="did you mean 'bwn'"):
        make_layer(config(), 6, "bwm", "none")


@pytest.mark.parametrize(
    ("task", "cell"),
    [
        ("char-lm", {"cell": "gru"}),
        ("char-lm", {"cell": "f-lstm", "rank": 4}),
        ("char-lm", {"cell": "lstm", "proj": 4}),
        ("word-lm", {"cell": "gru", "layers": 2}),
        ("word-lm", {"cell": "g-lstm", "groups": [2, 4], "layers": 2, "proj": 4}),
        ("word-lm", {"cell": "f-lstm", "rank": 4, "proj": 4}),
        ("classify", {"cell": "gru"}),
    ],
)
def test_every_cell_trains_and_goes_on_from_its_state(
    tiny: dict[str, Any], tmp_path: Path, task: str, cell: dict[str, Any]
) -> None:
    import numpy as np

    settings = {**tiny, "task": task, "steps": 3, **cell, "quantizer": "twn", "normalizer": "layer"}
    if task == "classify":
        rng = np.random.default_rng(0)
        np.savez(tmp_path / "x.npz", x=rng.normal(size=(60, 5)), y=np.arange(60) % 3)
        settings |= {"data": str(tmp_path / "x.npz"), "unroll": None}
    outcome = train(settings, tmp_path)
    assert outcome.result.status == "completed"
    assert outcome.result.steps == 3
    assert outcome.run.config.cell == cell["cell"]
