"""Digits packed by compiled code are the blocks that NumPy makes of the same signs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qlstm_core import BitPlanes
from qlstm_core.packed.kernels.digits import pack_digits
from qlstm_core.packed.kernels.layout import SPANS, aligned, pack


@pytest.mark.parametrize("span", SPANS)
@settings(max_examples=40)
@given(
    st.integers(1, 140), st.integers(1, 140), st.integers(1, 4), st.integers(0, 2), st.booleans(),
    st.integers(0, 9999),
)  # fmt: skip
def test_blocks_are_those_of_the_signs(
    span: int, rows: int, cols: int, planes: int, plane: int, transposed: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    digits = np.zeros([-(-size // 16) * 16 for size in (rows, cols)], np.uint8)
    digits[:rows, :cols] = rng.integers(0, 2 ** (plane + planes), (rows, cols))
    signs = np.stack([digits[:rows, :cols] >> k & 1 for k in range(plane, plane + planes)]).astype(bool)
    signs = signs.swapaxes(1, 2) if transposed else signs
    planes_of = BitPlanes(torch.from_numpy(signs[:, None].copy()), torch.ones(planes, 1, 1))
    expected = pack(planes_of, span).blocks
    blocks = aligned(expected.shape, np.uint8)
    blocks[:] = 7
    pack_digits(digits, blocks, plane=plane, planes=planes, transposed=transposed)
    np.testing.assert_array_equal(blocks, expected)
