"""The recurrent layer that settings ask for, of every family, in every task."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.tasks.layers import make_initial_state, make_layer
from qlstm_bench.training.run import resolve, train
from qlstm_core import GRU, LSTM, Cell, FactorizedLSTM, GroupedLSTM, RecurrentLayer
from qlstm_core.plugins import CellSpec, PluginError, hookimpl, registry
from qlstm_quant import TWN


class Leak(RecurrentLayer):
    """Two gates that depend on the input alone, and an option."""

    cell = Cell(
        "leak",
        gates="zn",
        states=("h",),
        step=lambda x, h: (h + x[:, 0].sigmoid() * (x[:, 1] - h),),
        recurrent=False,
    )

    def __init__(self, *args: Any, slowness: float = 0.0, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.slowness = slowness


class Leaks:
    """A stranger's plugin."""

    @hookimpl
    def qlstm_cells(self) -> Iterator[CellSpec]:
        yield CellSpec(name="leak", summary="a cell", factory=Leak)


@pytest.fixture
def leak() -> Iterator[None]:
    registry.register(Leaks(), "leaks")
    yield
    registry.unregister("leaks")


def config(**settings: Any) -> RunConfig:
    return RunConfig.build(
        {"data": "x", "hidden": 8, "batch": 2, "lr": 0.5, "clip": 1.0, "steps": 1, **settings}
    )


def test_the_start_of_torch_is_that_of_a_new_layer() -> None:
    """Drawn once: a seed gives the weights that it gives a layer that is made directly."""
    torch.manual_seed(3)
    layer, after = make_layer(config(), 6, "none", "none"), torch.random.get_rng_state()
    torch.manual_seed(3)
    direct = LSTM(6, 8)
    assert torch.equal(torch.random.get_rng_state(), after)
    for one, other in zip(layer.parameters(), direct.parameters(), strict=True):
        assert torch.equal(one, other)


def test_settings_reach_the_layer(leak: None) -> None:
    layer = make_layer(config(layers=2, dropout=0.5), 6, "bwn", "layer")
    assert type(layer) is LSTM
    assert (layer.num_layers, layer.dropout, layer.hidden_size) == (2, 0.5, 8)
    assert repr(layer) == "LSTM(6, 8, num_layers=2, dropout=0.5, quantizer='bwn', normalizer='layer')"
    assert layer.products == "exact"
    assert make_layer(config(products="packed12"), 6, "bwn", "layer").products == "packed12"
    assert not layer.state_quantizers
    quantized = make_layer(config(state_quantizer="twn"), 6, "bwn", "none")
    assert [type(quantizer) for quantizer in quantized.state_quantizers.values()] == [TWN]
    assert type(make_layer(config(cell="gru"), 6, "none", "none")) is GRU
    factorized = make_layer(config(cell="f-lstm", rank=3, proj=4), 6, "none", "none")
    assert isinstance(factorized, FactorizedLSTM)
    assert (factorized.rank, factorized.proj_size) == (3, 4)
    slow = make_layer(config(cell="leak:slowness=2.0"), 6, "none", "none")
    assert isinstance(slow, Leak)
    assert slow.slowness == 2.0
    grouped = make_layer(config(cell="g-lstm", groups=[2, 4], layers=2), 6, "none", "none")
    assert isinstance(grouped, GroupedLSTM)
    assert grouped.groups == (2, 4)


def test_weights_start_as_the_settings_say() -> None:
    layer = make_layer(config(start="identity"), 6, "bwn", "weight")
    assert torch.equal(layer.weight_hh_l0.view(4, 8, 8)[2], torch.eye(8))
    torch.testing.assert_close(layer.normalizers["hh_l0"].gain[2], torch.ones(8))
    factorized = make_layer(config(cell="f-lstm", rank=3, start="glorot"), 6, "none", "none")
    assert float(factorized.weight_inner_l0.detach().abs().max()) <= math.sqrt(6 / (6 + 8 + 3))
    with torch.device("meta"):
        assert make_layer(config(start="orthogonal"), 6, "none", "none").weight_hh_l0.is_meta


def test_the_inputs_side_may_have_a_quantizer_of_its_own() -> None:
    kept = make_layer(config(input_quantizer="none"), 6, "binary-connect", "none")
    assert set(kept.quantizers) == {"hh_l0"}
    # 32 bits for 32 × 6 weights, 1 bit for 32 × 8, and 32 biases
    assert kept.storage_bytes() == 4 * 192 + 256 // 8 + 4 * 32
    grouped = make_layer(
        config(cell="g-lstm", groups=2, quantizer="bwn", input_quantizer="twn"), 6, "bwn", "none"
    )
    assert (grouped.quantizers["ih_l0"].bits, grouped.quantizers["hh_l0"].bits) == (2, 1)
    plain = make_layer(config(quantizer="bwn", input_quantizer="twn"), 6, "none", "none")
    assert not plain.quantizers, "the network in full precision that sizes are compared with"


def test_what_a_layer_begins_from() -> None:
    layer = make_layer(config(), 6, "none", "none")
    assert make_initial_state(config(), layer) is None
    learned = make_initial_state(config(initial_state="learned", initial_state_noise=0.25), layer)
    assert learned is not None
    assert learned.noise == 0.25
    assert learned.c_0.shape == (1, 1, 8)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"start": "identiy"}, r"start: .*'glorot', got 'identiy' \(did you mean 'identity'\?\)"),
        ({"start": "identity", "cell": "f-lstm"}, "start=identity is for square recurrent weights"),
        ({"start": "identity", "proj": 4}, "start=identity is for square recurrent weights"),
        ({"initial_state_noise": 0.1}, "initial_state_noise=0.1 is for initial_state learned, and .*zeros"),
        ({"initial_state_noise": -1.0, "initial_state": "learned"}, "initial_state_noise: .*, got -1.0"),
        (
            {"cell": "f-lstm", "quantizer": "bwn", "input_quantizer": "none"},
            "input_quantizer=none is for cell",
        ),
        ({"input_quantizer": "twn"}, "input_quantizer=twn stands beside a quantizer, and quantizer is none"),
        ({"gain_lr": 0.0}, "gain_lr: .*, got 0.0"),
        ({"gain_lr": 1e308}, r"a learning rate of 2e\+305 is beyond float32"),
        ({"lr": float("nan")}, "lr: .*, got nan"),
    ],
)
def test_starts_that_do_not_fit_are_named(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        resolve({"task": "char-lm", "steps": 1, "hidden": 8, **settings})


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"cell": "gru", "proj": 4}, "proj=4 is for cell f-lstm or g-lstm or lstm, and cell is gru"),
        ({"cell": "leak", "proj": 4}, "proj=4 is for cell f-lstm or g-lstm or lstm, and cell is leak"),
        ({"rank": 4}, "rank=4 is for cell f-lstm, and cell is lstm"),
        ({"cell": "f-lstm", "groups": 4}, "groups=4 is for cell g-lstm, and cell is f-lstm"),
        ({"cell": "f-lstm:rank=4", "rank": 5}, "rank=5 and cell=f-lstm:rank=4 differ: give one of them"),
        (
            {"cell": "lsmt"},
            r"unknown cell 'lsmt' \(did you mean 'lstm' or .*; installed: .*f-lstm, g-lstm, gru",
        ),
        (
            {"cell": "leak:slow=1"},
            r"cell 'leak' has no option 'slow' \(did you mean 'slowness'\?\); allowed: ",
        ),
        ({"cell": ["gru"]}, r"cell must be a name, as text, got \['gru'\]"),
    ],
)
def test_options_of_another_cell_are_refused(leak: None, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises((ConfigError, PluginError), match=problem):
        resolve({"data": "x", "hidden": 8, "steps": 1, **settings})


@pytest.mark.parametrize(
    ("given", "cell", "rank", "groups"),
    [
        ({"cell": "f-lstm:rank=4"}, "f-lstm", 4, None),
        ({"cell": "f-lstm:rank=4", "rank": 4}, "f-lstm", 4, None),
        ({"cell": "g-lstm:groups=2"}, "g-lstm", None, 2),
        ({"cell": "leak:slowness=2"}, "leak:slowness=2.0", None, None),
        ({"cell": "leak:slowness=0"}, "leak", None, None),
        ({}, "lstm", None, None),
    ],
)
def test_one_cell_has_one_spelling(
    leak: None, given: dict[str, Any], cell: str, rank: int | None, groups: int | None
) -> None:
    found = resolve({"data": "x", "hidden": 8, "steps": 1, **given})[0]
    assert (found.cell, found.rank, found.groups) == (cell, rank, groups)


def test_a_run_of_a_cell_that_is_no_longer_installed_can_still_be_read(tmp_path: Path) -> None:
    """Reports of finished runs need no plugin."""
    path = tmp_path / "config.yaml"
    path.write_text(config(cell="gone:x=1").to_yaml())
    assert RunConfig.from_yaml(path).cell == "gone:x=1"


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
        ("char-lm", {"cell": "leak:slowness=1.0", "gradients_every": 1}),
        ("classify", {"cell": "leak", "layers": 2}),
    ],
)
def test_every_cell_trains_and_goes_on_from_its_state(
    leak: None, tiny: dict[str, Any], tmp_path: Path, task: str, cell: dict[str, Any]
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
