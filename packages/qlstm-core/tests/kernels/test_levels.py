"""Levels read off a weight's values make up that weight again, whatever quantizer and row factors made it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from packed_weights import FORMS, dense, drawn_weight

from qlstm_core.kernels.levels import find_levels

PLANES = {
    "binary": 1, "ternary": 2, "grid3": 3, "grid4": 4, "sums2": 2, "sums3": 3, "sums4": 4, "zeros": 1
}  # fmt: skip


@settings(max_examples=60)
@example("sums4", 2, 21, 200, False, 0)
@given(
    st.sampled_from(sorted(FORMS)),
    st.integers(1, 3),
    st.integers(1, 21),
    st.sampled_from([100, 128, 200]),
    st.booleans(),
    st.integers(0, 9999),
)
def test_digits_and_scales_make_up_the_weight(
    form: str, groups: int, rows: int, cols: int, per_row: bool, seed: int
) -> None:
    weight = drawn_weight(form, groups, rows, cols, per_row=per_row, seed=seed)
    levels = find_levels(weight)
    assert levels is not None
    assert levels.planes == PLANES[form]
    np.testing.assert_allclose(dense(levels, weight.shape), weight, rtol=0, atol=2e-6 * np.abs(weight).max())
    assert (levels.ratios is None) == form.startswith("sums")
    if levels.ratios is not None:
        units = levels.scales[0] / levels.ratios[0]
        np.testing.assert_array_equal(levels.scales, levels.ratios[:, None, None] * units)
    rest = levels.digits.copy()
    rest[:, :rows, :cols] = 0
    assert not rest.any(), "padding is zero"


@pytest.mark.parametrize("cols", [5, 6, 9])
@pytest.mark.parametrize("form", ["binary", "ternary", "grid3"])
def test_short_rows_that_lack_levels(form: str, cols: int) -> None:
    for seed in range(20):
        weight = drawn_weight(form, 1, 7, cols, per_row=True, seed=seed)
        levels = find_levels(weight)
        assert levels is not None
        np.testing.assert_allclose(
            dense(levels, weight.shape), weight, rtol=0, atol=2e-6 * np.abs(weight).max()
        )


def test_a_negative_zero_is_zero() -> None:
    weight = np.array([[[-0.0, 2.0, -2.0, 0.0, 2.0]]], np.float32)
    levels = find_levels(weight)
    assert levels is not None
    np.testing.assert_array_equal(dense(levels, weight.shape), weight)


@pytest.mark.parametrize(
    "row",
    [
        np.arange(1, 18),  # seventeen levels
        [1.0, 1.6180339, 2.4142135, 0.0, 3.3, 5.7],  # no grid, and 0 among levels that no sums make
        [1.0, 9.0, 4.0, 0.0, 3.0, 2.0],  # a grid beyond ±7
        [1.0, -1.0, np.nan, 1.0, 1.0],
        [np.nan, 1.0, -1.0, 1.0, 1.0],
        [1.0, -1.0, np.inf, 1.0, 1.0],
        [np.inf, -np.inf, np.inf, np.inf, np.inf],
        [1.0, 2.0, np.nan, -3.0, 1.0],
        [1.0, 2.0, -np.inf, -3.0, 1.0],
        [1.0, 2.0, 3.0, 4.0],  # four numbers are always sums of four scales
    ],
    ids=str,
)
def test_other_weights_have_none(row: list[float]) -> None:
    weight = np.ones((1, 3, len(row)), np.float32)
    weight[0, 1] = row
    assert find_levels(weight) is None
