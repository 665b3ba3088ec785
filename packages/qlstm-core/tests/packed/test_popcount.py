"""Bits times bits against NumPy's integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlstm_core.packed.popcount import multiply_bits, pack_words, sign_words, words_of


def state_words(signs):
    words = np.zeros((*signs.shape[:-1], words_of(signs.shape[-1])), np.uint64)
    for index in np.ndindex(signs.shape[:-1]):
        sign_words(np.where(signs[index], 1, -1).astype(np.float32), words[index])
    return words


@given(
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(1, 700),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(0, 999),
)
@settings(deadline=None)
def test_sums_are_exact(planes, rows, cols, columns, states, seed):
    generator = np.random.default_rng(seed)
    b = generator.random((planes, rows, cols)) < 0.5
    a = generator.random((columns, states, cols)) < 0.5
    sums = np.full((columns, states, planes, rows), -7, np.int32)
    multiply_bits(pack_words(b), state_words(a), cols, sums)
    assert np.array_equal(sums, np.einsum("prc,nsc->nspr", np.where(b, 1, -1), np.where(a, 1, -1)))


@pytest.mark.parametrize("cols", [1, 63, 64, 65, 256, 4099])
@pytest.mark.parametrize("same", [True, False])
def test_extremes(cols, same):
    b = np.ones((1, 3, cols), bool)
    sums = np.zeros((1, 1, 1, 3), np.int32)
    multiply_bits(pack_words(b), state_words(np.full((1, 1, cols), same)), cols, sums)
    assert (sums == (cols if same else -cols)).all()


def test_words_hold_64_columns_lowest_bit_first():
    signs = np.zeros((1, 2, 70), bool)
    signs[0, 1, [0, 3, 64]] = True
    words = pack_words(signs)
    assert words.shape == (1, 2, 2)
    assert words[0, :, 0].tolist() == [0, 0]
    assert words[0, :, 1].tolist() == [9, 1]


def test_the_sign_of_zero_is_plus():
    words = np.full(1, 99, np.uint64)
    sign_words(np.array([0.0, -0.0, -1.0, 2.0, -1e-30], np.float32), words)
    assert words[0] == 0b01011
