"""How many weights SR and R move under Adam, against a count; and the experiment as a whole.

Seed 0. SR's moves are accepted within four standard deviations of their predicted sum, R's must be met
exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qlstm_bench.theory.rounded_training import rounding_adam
from qlstm_bench.theory.rounded_training.rounding_adam import Flips, RoundingAdam, flip_probability
from qlstm_quant import Grid, Rounding
from qlstm_quant.rounding import Mode

Formula = Callable[[Tensor, Tensor, float, Mode], Tensor]


def count_flips(mode: Mode, rate: float, steps: int = 60, delta: float = 0.5) -> Flips:
    """Train a linear regression of 2000 binary weights with Adam."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(100, 20)
    with torch.no_grad():
        model.weight.copy_(torch.randn(20, 100, generator=generator))
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    flips = Flips(delta, mode)
    flips.attach(optimizer, [model.weight])
    rounding = Rounding([model.weight], optimizer, Grid.binary(delta / 2), mode=mode, generator=generator)
    for _ in range(steps):
        x = torch.randn(16, 100, generator=generator)
        optimizer.zero_grad()
        (model(x) - x[:, :20]).square().mean().backward()
        optimizer.step()
        flips.counted += rounding.changed_last_step
    return flips


FLIPS: dict[str, Formula] = {
    "either way": lambda before, after, delta, mode: ((after - before).abs() / delta).clamp(0, 1),
    "the other way": lambda before, after, delta, mode: flip_probability(
        before, 2 * before - after, delta, mode
    ),
    "half the grid": lambda before, after, delta, mode: flip_probability(before, after, delta / 2, mode),
    "squared": lambda before, after, delta, mode: flip_probability(before, after, delta, mode) ** 2,
    "at w/Δ": lambda before, after, delta, mode: after / delta - torch.floor(after / delta),
}


def accepted() -> bool:
    flips = count_flips("stochastic", 0.02)
    return flips.counted > 1000 and abs(flips.counted - flips.expected) <= 4 * math.sqrt(flips.variance)


def test_moves_of_stochastic_rounding() -> None:
    assert accepted()


@pytest.mark.parametrize("mistake", FLIPS)
def test_moves_with_a_mistake_are_refused(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding_adam, "flip_probability", FLIPS[mistake])
    assert not accepted()


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_deterministic_rounding_moves_only_where_an_update_reaches_half_the_grid(rate: float) -> None:
    flips = count_flips("deterministic", rate)
    assert flips.counted == flips.expected
    assert (flips.counted > 0) == (rate > 0.25)


def test_nothing_is_predicted_for_binary_connect() -> None:
    flips = count_flips("binary-connect", 0.02)
    assert flips.counted > 0
    assert flips.expected == 0


def test_the_experiment_counts_on_a_recurrent_task() -> None:
    """R does not move, SR does as predicted, and every method starts from the same weights."""
    experiment = RoundingAdam(task=("digits",), hidden=6, batch=10, big=2, steps=12, runs=1)
    findings = experiment.run()
    table = findings.table.set_index("method")
    assert table.index.tolist() == ["ADAM", "BC-ADAM", "Big SR-ADAM", "SR-ADAM", "R-ADAM"]
    assert table.error.between(0, 100).all()
    assert table.loc["R-ADAM", "moves"] == table.loc["R-ADAM", "predicted moves"] == 0
    for method in ("SR-ADAM", "Big SR-ADAM"):
        predicted = table.loc[method, "predicted moves"]
        assert abs(table.loc[method, "moves"] - predicted) <= 4 * math.sqrt(predicted)
    again = experiment.run().table
    assert again.equals(findings.table)
