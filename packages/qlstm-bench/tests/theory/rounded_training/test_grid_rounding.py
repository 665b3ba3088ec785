"""The compiled roundings of one number against those of tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlstm_bench.theory.rounded_training.grid_rounding import nearest_index, stochastic_index
from qlstm_quant import Grid

ratios = st.lists(st.floats(-50, 50), min_size=1, max_size=30)


@given(ratios)
def test_nearest_is_that_of_the_grid(numbers: list[float]) -> None:
    expected = Grid(1.0).nearest(torch.tensor(numbers, dtype=torch.float64))
    assert [nearest_index(number) for number in numbers] == expected.tolist()


@given(ratios, st.integers(0, 1000))
def test_stochastic_is_that_of_the_grid_with_the_same_draws(numbers: list[float], seed: int) -> None:
    weight = torch.tensor(numbers, dtype=torch.float64)
    expected = Grid(1.0).stochastic(weight, torch.Generator().manual_seed(seed))
    draws = torch.rand(weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(seed))
    assert [
        stochastic_index(*pair) for pair in zip(numbers, draws.tolist(), strict=True)
    ] == expected.tolist()


@pytest.mark.parametrize("ratio", [-1.3, -1.0, 0.0, 0.25, 2.75])
def test_stochastic_has_the_right_mean(ratio: float) -> None:
    draws = np.random.default_rng(0).random(40_000)
    fraction = ratio - np.floor(ratio)
    mean = np.mean([stochastic_index(ratio, draw) for draw in draws])
    assert mean == pytest.approx(ratio, abs=5 * np.sqrt(fraction * (1 - fraction) / draws.size) + 1e-12)
