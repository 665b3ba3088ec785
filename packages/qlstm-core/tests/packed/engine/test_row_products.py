"""Rows times a weight in bits, and times its transpose: against float64, at any size and any magnitude."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from packed_weights import FORMS, drawn_weight

from qlstm_core.kernels.levels import find_levels
from qlstm_core.packed.engine.row_products import in_bits, multiply_rows, multiply_shared
from qlstm_core.packed.kernels.choose import ENVIRONMENT, has_avx2, has_vbmi
from qlstm_core.packed.kernels.layout import ENTRY_LIMIT

KERNELS = [*(["avx512"] if has_vbmi() else []), *(["avx2"] if has_avx2() else []), "portable"]


def product(weight: Any, x: Any, transposed: bool) -> Any:
    """Return what each group of features gives, ``(count, groups · lines)``, in the dtype of the factors."""
    groups = len(weight)
    split = x.reshape(len(x), groups, -1).swapaxes(0, 1)
    made = split @ (weight if transposed else weight.swapaxes(1, 2))
    return made.swapaxes(0, 1).reshape(len(x), -1)


def bound(weight: Any, x: Any, scales: Any, transposed: bool, activation_bits: int) -> Any:
    """Return by how much a product may be off: each factor by half the step of its vector.

    A step is at most six times the largest factor over the largest entry, 3 less.
    """
    groups, rows, cols = weight.shape
    split = np.abs(x.reshape(len(x), groups, -1).astype(np.float64))
    steps = 6 / (ENTRY_LIMIT[activation_bits] - 3)
    if transposed:
        # Of each plane, the vector times the scales of the rows is what is rounded.
        peaks = sum((split * scale).max(-1) for scale in scales.astype(np.float64))
        off = np.repeat(peaks * rows * steps / 2, cols, axis=-1)
    else:
        off = (split.max(-1, keepdims=True) * steps / 2 * np.abs(weight).sum(-1)).reshape(len(x), -1)
    exact = product(np.abs(weight.astype(np.float64)), np.abs(x.astype(np.float64)), transposed)
    return 1.01 * off.reshape(len(x), -1) + 2e-6 * exact + 1e-44 * max(rows, cols)


CASE = {
    "form": st.sampled_from(sorted(FORMS)),
    "groups": st.integers(1, 3),
    "rows": st.integers(1, 150),
    "cols": st.integers(5, 150),
    "per_row": st.booleans(),
    "count": st.sampled_from([1, 2, 3, 16, 17, 64]),
    "transposed": st.booleans(),
    "activation_bits": st.sampled_from([12, 16]),
    "add": st.booleans(),
    "exponent": st.sampled_from([-43, -38, -20, 0, 0, 0, 20, 36]),
    "seed": st.integers(0, 9999),
}


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=60)
@example(
    {
        "form": "sums4", "groups": 2, "rows": 150, "cols": 130, "per_row": True, "count": 17,
        "transposed": True, "activation_bits": 16, "add": True, "exponent": 0, "seed": 0,
    }
)  # fmt: skip
@given(st.fixed_dictionaries(CASE))
def test_products_are_those_of_float64(kernel: str, case: dict[str, Any]) -> None:
    weight = drawn_weight(
        case["form"], case["groups"], case["rows"], case["cols"], per_row=case["per_row"], seed=case["seed"]
    )
    levels = find_levels(weight)
    if levels is None:  # rows that lack too many of the levels of sums
        return
    transposed, bits = case["transposed"], case["activation_bits"]
    rng = np.random.default_rng(case["seed"])
    features = weight.shape[1] if transposed else weight.shape[2]
    x = rng.standard_normal((case["count"] + 2, case["groups"] * features)).astype(np.float32)
    x *= np.float32(10.0 ** max(case["exponent"], -30)) * np.float32(10.0 ** min(case["exponent"] + 30, 0))
    x[1, ::3] = 0
    lines = weight.shape[2] if transposed else weight.shape[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT, kernel)
        packed = in_bits(weight, levels, bits, transposed=transposed, parts=2)
    out = np.full((case["count"] + 3, case["groups"] * lines), 7, np.float32)
    if case["exponent"] < 0:
        out[:] = 0
    multiply_rows(packed, x, 1, case["count"], out, 2, case["add"], 1)
    rows = x[1 : 1 + case["count"]]
    expected = product(weight.astype(np.float64), rows.astype(np.float64), transposed)
    off = bound(weight, rows, levels.scales, transposed, bits)
    before = out[0, 0] if case["add"] else 0.0
    assert (np.abs(out[2 : 2 + case["count"]] - before - expected) <= off + 1e-6 * abs(before)).all()
    assert (out[:2] == out[0, 0]).all()
    assert (out[2 + case["count"] :] == out[0, 0]).all()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("form", ["binary", "ternary", "grid3", "sums2"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_spreads_as_in_float32(form: str, bad: float, transposed: bool) -> None:
    weight = drawn_weight(form, 2, 20, 24, per_row=True, seed=0)
    levels = find_levels(weight)
    assert levels is not None
    rng = np.random.default_rng(1)
    x = rng.standard_normal((5, 2 * (20 if transposed else 24))).astype(np.float32)
    x[1, 3] = bad
    x[2, [3, 4]] = bad, -bad
    x[3, -1] = np.float32(3e38)  # finite, and so large that sums are not
    packed = in_bits(weight, levels, 16, transposed=transposed, parts=1)
    out = np.zeros((5, 2 * (24 if transposed else 20)), np.float32)
    multiply_shared(packed, x, out, 1)
    with np.errstate(all="ignore"):
        expected = product(weight, x, transposed)
    np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))
    infinite = np.isinf(expected)
    infinite[3] = False
    np.testing.assert_array_equal(out[infinite], expected[infinite])
    finite = np.isfinite(expected) & np.isfinite(out)
    scale = np.abs(expected[finite]).max()
    np.testing.assert_allclose(out[finite] / scale, expected[finite] / scale, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(out[0], multiply_alone(packed, x[0]))


def multiply_alone(packed: Any, row: Any) -> Any:
    out = np.zeros((1, packed.scales.shape[2] * len(packed.matrix)), np.float32)
    multiply_shared(packed, row[None].copy(), out, 1)
    return out[0]


def test_vectors_of_zeros_give_zeros() -> None:
    weight = drawn_weight("grid4", 1, 20, 100, per_row=True, seed=0)
    levels = find_levels(weight)
    assert levels is not None
    out = np.full((3, 20), np.nan, np.float32)
    multiply_shared(
        in_bits(weight, levels, 12, transposed=False, parts=2), np.zeros((3, 100), np.float32), out, 2
    )
    assert not out.any()
