"""Weights on a grid of few levels: levels, starts, what fits with what, and interruptions bit for bit.

That each step of a run is the paper's is in test_loop.py, against a loop written out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from qlstm_bench.config import ConfigError
from qlstm_bench.training.rounding import fill_grid_, grid_of
from qlstm_bench.training.run import resolve, train
from qlstm_core import LSTM


@given(st.integers(2, 20), st.sampled_from([1.0, 0.25, 0.1, 3.0, 1e-3]))
def test_levels_are_evenly_spaced_around_zero(levels: int, delta: float) -> None:
    grid = grid_of(levels, delta)
    wide = torch.linspace(-2 * levels * delta, 2 * levels * delta, 997, dtype=torch.float64)
    points = grid.nearest(wide).unique()
    expected = delta * (torch.arange(levels, dtype=torch.float64) - (levels - 1) / 2)
    torch.testing.assert_close(points, expected, rtol=1e-12, atol=1e-12 * delta)


def test_weights_start_as_wide_as_the_grid() -> None:
    torch.manual_seed(0)
    weights = [torch.randn(5, 4), 1e-3 * torch.randn(3, 3, 3), torch.zeros(2)]
    before = [weight.clone() for weight in weights]
    fill_grid_(weights, grid_of(3, 0.5))
    for weight, old in zip(weights[:2], before[:2], strict=True):
        assert weight.abs().max() == 0.5
        torch.testing.assert_close(weight / old, (0.5 / old.abs().max()).expand_as(old))
    assert weights[2].eq(0).all()


@pytest.mark.parametrize(("cell", "levels"), [("lstm", 2), ("gru", 3), ("f-lstm:rank=2", 4)])
def test_all_recurrent_weights_end_on_their_levels_and_nothing_else_does(
    tiny: dict[str, Any], tmp_path: Path, cell: str, levels: int
) -> None:
    settings = {**tiny, "cell": cell, "rounding": "stochastic", "rounding_levels": levels, "layers": 2}
    run = train({**settings, "rounding_delta": 0.5, "normalizer": "layer"}, tmp_path).run
    held = {0.5 * (n - (levels - 1) / 2) for n in range(levels)}
    tensors = load_file(run.directory / "model.safetensors")
    rounded = {name for name in tensors if name.startswith("recurrent.weight_")}
    assert len(rounded) == 4
    for name, value in tensors.items():
        assert (set(value.unique().tolist()) <= held) == (name in rounded), name
    assert all(0 < row["changed"] < 1 for row in run.metrics()), "a share of the weights"


def test_bwn_stores_what_two_levels_are_and_changes_nothing(tiny: dict[str, Any], tmp_path: Path) -> None:
    """±½ are its α sign(w) as they are; the size is that of bits, and the figures are the same."""
    settings = {**tiny, "rounding": "stochastic", "normalizer": "layer"}
    plain = train(settings, tmp_path).result
    stored = train({**settings, "quantizer": "bwn"}, tmp_path).result
    assert stored.metrics["test_bpc"] == pytest.approx(plain.metrics["test_bpc"], rel=1e-4)
    symbols = len(set(Path(tiny["data"]).read_text()))
    for result, quantizer in ((plain, "none"), (stored, "bwn")):
        layer = LSTM(symbols, tiny["hidden"], quantizer=quantizer, normalizer="layer")
        assert result.storage_bytes == layer.storage_bytes()


@pytest.mark.parametrize("mode", ["deterministic", "stochastic", "binary-connect"])
def test_an_interrupted_run_ends_with_the_same_weights(
    tiny: dict[str, Any], tmp_path: Path, mode: str
) -> None:
    """The checkpoint holds real weights, where the run began, and the generator that draws."""
    settings = {
        **tiny, "rounding": mode, "rounding_delta": 0.25, "optimizer": "adamw", "checkpoint_seconds": 0,
        "lr": 0.05, "layers": 2, "dropout": 0.5, "quantizer": "bwn",
    }  # fmt: skip

    def interrupt(step: int, steps: int, figures: object) -> None:
        if step == 5:
            raise KeyboardInterrupt

    whole = train(settings, tmp_path / "whole").run
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "halves", listen=interrupt)
    torch.manual_seed(99)  # whatever is drawn in between
    halves = train(settings, tmp_path / "halves").run
    one, other = (load_file(run.directory / "model.safetensors") for run in (whole, halves))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in r.metrics()] for r in (whole, halves)
    ]
    assert rows[0] == rows[1]
    assert (rows[0][-1]["changed"] > 0) == (mode != "deterministic")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounding": "stochastc"}, "rounding: .*'stochastic'.*got 'stochastc' .did you mean 'stochastic'"),
        ({"rounding_delta": 0.5}, "rounding_delta=0.5 is for rounding deterministic or .*rounding is none"),
        ({"rounding_levels": 3}, "rounding_levels=3 is for rounding"),
        ({"rounding": "stochastic", "rounding_levels": 1}, "rounding_levels: .*greater than or equal to 2"),
        ({"rounding": "stochastic", "rounding_delta": 0}, "rounding_delta: .*greater than 0"),
        ({"rounding": "stochastic", "average": 0.5}, "average=0.5 would lie between the levels"),
        (
            {"rounding": "deterministic", "quantizer": "bwn", "normalizer": "weight", "data_start": True},
            "data_start measures weights before rounding=deterministic moves them",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolve({"task": "digits", "steps": 1, **settings})
    assert "\n" not in str(caught.value)
