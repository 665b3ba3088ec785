"""Floats to integers for the tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qlstm_core.packed.kernels.activations import quantize
from qlstm_core.packed.kernels.layout import ENTRY_LIMIT, SPANS

spans = st.sampled_from(SPANS)
bits = st.sampled_from(sorted(ENTRY_LIMIT))
finite = st.floats(-(2.0**100), 2.0**100, width=32)


@given(st.integers(1, 9), spans, bits, st.data())
@settings(deadline=None)
def test_integers_are_the_rounded_multiples_of_the_scale(groups, span, activation_bits, data):
    x = data.draw(arrays(np.float32, span * groups, elements=finite))
    limit = ENTRY_LIMIT[activation_bits]
    codes = np.full((span + 1, groups), 77, np.int16)
    scale, norm, total = quantize(x, limit, codes)

    peak = np.abs(x.reshape(span, -1).astype(np.float64)).sum(0).max()
    if peak < 1e-30:
        assert (scale, norm, total) == (0, 0, 0)
        assert not codes.any()
        return
    assert scale == pytest.approx(peak / (limit - span // 2), rel=1e-6)
    exact = x.astype(np.float64) / scale
    q = np.rint(exact).astype(np.int64)
    # float32 may take the other neighbour of a value that lies half-way between two integers.
    half_way = np.abs(exact - np.trunc(exact)) - 0.5
    sure = np.abs(half_way) > 1e-6 * limit
    assert np.array_equal(codes[:span].ravel()[sure], q[sure].astype(np.int16))  # modulo 2^16
    assert abs(norm - np.abs(q).sum()) <= (~sure).sum()
    assert abs(total - q.sum()) <= (~sure).sum()


@given(st.integers(1, 9), spans, bits, st.data())
@settings(deadline=None)
def test_no_group_passes_the_largest_entry(groups, span, activation_bits, data):
    x = data.draw(arrays(np.float32, span * groups, elements=st.floats(-1, 1, width=32)))
    limit = ENTRY_LIMIT[activation_bits]
    codes = np.zeros((span + 1, groups), np.int16)
    _, norm, total = quantize(x, limit, codes)
    # Σ|q| = Σq + 2 Σ|negative q|, all known modulo 2^16.
    negative = codes[span].astype(np.uint16).astype(np.int64)
    magnitude = (codes[:span].astype(np.int64).sum(0) + 2 * negative) % 2**16
    assert magnitude.max() <= limit
    assert magnitude.sum() == norm
    assert norm - 2 * negative.sum() == total


def test_a_vector_of_multiples_is_kept_exactly():
    x = np.array([100, -50, 0, 3, 0, 25, 1, -3, -100, 50, 0, 4, 53, 1, 1, -2], np.float32)
    codes = np.zeros((5, 4), np.int16)
    scale, norm, total = quantize(x * np.float32(0.25), 255, codes)
    assert scale == 0.25
    assert np.array_equal(codes[:4].ravel(), x)
    assert codes[4].tolist() == [100, 50, 0, 5]
    assert (norm, total) == (np.abs(x).sum(), x.sum())


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 5, 15])
def test_what_is_not_finite_makes_the_scale_nan(bad, at):
    x = np.ones(16, np.float32)
    x[at] = bad
    codes = np.ones((5, 4), np.int16)
    scale, norm, total = quantize(x, 255, codes)
    assert np.isnan(scale)
    assert (norm, total) == (0, 0)
    assert not codes.any()
