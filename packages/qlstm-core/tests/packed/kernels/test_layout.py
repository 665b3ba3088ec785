"""Bit planes to the kernels' layout and back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qlstm_core import BitPlanes
from qlstm_core.packed.kernels import layout as packed_format
from qlstm_core.packed.kernels.layout import (
    MAX_COLUMNS,
    SPANS,
    PackedMatrix,
    aligned,
    groups_of,
    pack,
    pack_signs,
    unpack,
)

shapes = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 70), st.integers(1, 70))


def random_planes(shape: tuple[int, int, int, int], seed: int, per_row: bool = False) -> BitPlanes:
    planes, gates, rows, _ = shape
    generator = torch.Generator().manual_seed(seed)
    scales = torch.rand(planes, gates, rows if per_row else 1, generator=generator)
    offset = torch.rand(gates, rows if per_row else 1, generator=generator) if seed % 2 else None
    return BitPlanes(torch.rand(shape, generator=generator) < 0.5, scales, offset)


@given(shapes, st.integers(0, 9), st.booleans(), st.sampled_from(SPANS))
@settings(deadline=None)
def test_unpack_returns_what_was_packed(shape, seed, per_row, span):
    planes = random_planes(shape, seed, per_row)
    found = unpack(pack(planes, span))
    assert torch.equal(found.signs, planes.signs)
    assert torch.equal(found.scales, planes.scales)
    assert torch.equal(found.dense(), planes.dense())


@given(shapes, st.integers(0, 9), st.sampled_from(SPANS), st.data())
@settings(deadline=None)
def test_each_sign_stands_where_the_module_says(shape, seed, span, data):
    k, gates, rows, cols = shape
    planes = random_planes(shape, seed)
    blocks = pack(planes, span).blocks
    plane, gate = data.draw(st.integers(0, k - 1)), data.draw(st.integers(0, gates - 1))
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, cols - 1))

    stacked = gate * rows + row
    run = (stacked // 16) * k + plane
    line, tile = (run % 4) * 16 + stacked % 16, run // 4
    groups = blocks.shape[1]
    bit, group = divmod(column, groups)
    if span == 4:
        byte, high = {0: (0, 0), 1: (1, 0), 2: (0, 4), 3: (1, 4)}[line // 16]
        found = blocks[tile, group, 2 * (line % 16) + byte] >> (high + bit) & 1
    else:
        four = blocks[tile].reshape(-1, 3, 64)[group // 4]
        byte = {0: 0, 1: 1, 2: 32, 3: 33}[line // 16] + 2 * (line % 16)
        part, shift = (group % 4, bit) if group % 4 < 3 else (bit // 2, 6 + bit % 2)
        found = four[part, byte] >> shift & 1
    assert bool(found) == bool(planes.signs[plane, gate, row, column])


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(SPANS))
@settings(deadline=None)
def test_padding_is_below_one_tile_and_four_groups(rows, cols, span):
    matrix = pack(BitPlanes.from_binary(torch.ones(1, rows, cols).bool(), torch.ones(1, 1)), span)
    tiles, groups, size = matrix.blocks.shape
    assert rows <= 64 * tiles < rows + 64
    assert cols <= span * groups < cols + 4 * span
    assert groups == matrix.groups == groups_of(cols, span)
    assert (size, matrix.span) == (8 * span, span)


@pytest.mark.parametrize("at_once", [1, 5000, 2**24])
@pytest.mark.parametrize("span", SPANS)
def test_matrices_packed_together_are_packed_as_each_alone(span, at_once, monkeypatch):
    monkeypatch.setattr(packed_format, "_AT_ONCE", at_once)
    signs = random_planes((2, 7, 18, 21), 3).signs.numpy()
    together = pack_signs(signs, span)
    for index in range(7):
        alone = pack(BitPlanes(torch.from_numpy(signs[:, index : index + 1]), torch.ones(2, 1, 1)), span)
        assert np.array_equal(together[index], alone.blocks)


def test_blocks_start_on_a_cache_line():
    for rows in (1, 17, 300):
        assert pack(random_planes((1, 1, rows, 5), 0)).blocks.ctypes.data % 64 == 0


def test_one_bit_per_weight():
    binary = pack(random_planes((1, 4, 512, 512), 0))
    assert binary.blocks.nbytes == 4 * 512 * 512 // 8
    assert binary.nbytes == binary.blocks.nbytes + 4 * 4
    assert pack(random_planes((2, 4, 512, 512), 0)).blocks.nbytes == 2 * binary.blocks.nbytes


@pytest.mark.parametrize(
    ("scales", "pairing", "sums"),
    [([1], 0, 1), ([1, 1], 1, 1), ([1, 2], 2, 1), ([2, 1], 0, 2), ([1, 1, 1], 0, 3), ([1, 2, 4, 8], 2, 2)],
)
def test_planes_are_paired_where_their_scales_allow(scales, pairing, sums):
    signs = torch.ones(len(scales), 1, 20, 3, dtype=torch.bool)
    matrix = pack(BitPlanes(signs, torch.tensor(scales).float().reshape(-1, 1, 1)))
    assert (matrix.pairing, matrix.sums) == (pairing, sums)
    assert np.array_equal(
        matrix.row_scales(), np.repeat(scales[:: 2 if pairing else 1], 20).reshape(sums, 20)
    )


def test_one_row_that_does_not_fit_prevents_pairing():
    scales = torch.ones(2, 1, 20)
    scales[1, 0, 7] = 2
    assert pack(BitPlanes(torch.ones(2, 1, 20, 3, dtype=torch.bool), scales)).pairing == 0


def test_row_offsets_follow_the_stacked_rows():
    planes = random_planes((1, 3, 2, 5), 1)
    assert planes.offset is not None
    assert np.array_equal(pack(planes).row_offsets(), np.repeat(planes.offset.numpy().ravel(), 2))
    assert np.array_equal(pack(random_planes((1, 3, 2, 5), 2)).row_offsets(), np.zeros(6))


@pytest.mark.parametrize("span", SPANS)
def test_what_does_not_fit_is_refused(span):
    good = pack(random_planes((2, 4, 10, 20), 1, per_row=True), span)
    for field, value, message in [
        ("blocks", good.blocks[:-1], "blocks"),
        ("blocks", good.blocks[:, ::2], "blocks"),
        ("blocks", good.blocks[:, :, :24], "blocks"),
        ("blocks", good.blocks.astype(np.int8), "blocks"),
        ("shape", (4, 10, 40), "blocks"),
        ("shape", (4, 11, 20), "scales"),
        ("shape", (4, 10, 0), "shape"),
        ("shape", (4, 10, MAX_COLUMNS + 1), "shape"),
        ("scales", good.scales.astype(np.float64), "scales"),
        ("scales", good.scales[:, :3], "scales"),
        ("scales", good.scales[0], "scales"),
        ("offset", np.zeros((4, 3), np.float32), "offset"),
        ("offset", np.zeros((4, 1)), "offset"),
    ]:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(good, **{field: value})


def test_aligned_arrays_are_zero_and_writable():
    array = aligned((3, 5), np.int32)
    assert array.shape == (3, 5)
    assert array.dtype == np.int32
    assert not array.any()
    array[:] = 7
    assert array.sum() == 105
    assert isinstance(pack(random_planes((1, 1, 1, 1), 0)), PackedMatrix)
