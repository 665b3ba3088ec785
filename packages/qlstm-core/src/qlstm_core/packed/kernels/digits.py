"""From digits to blocks, compiled: a weight that changes at every optimizer step is packed at every call.

The layout is that of :mod:`qlstm_core.packed.kernels.layout`; eight lines at a time stand in one 64-bit word.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qlstm_core.kernels.compile import compiled
from qlstm_core.packed.kernels.layout import RUN

_ONES = np.uint64(0x0101010101010101)


@cache
def _packer(span: int) -> Any:
    """Return the function that packs digits for one span."""

    @compiled(f"{span}")
    def pack(digits: Any, plane: int, planes: int, blocks: Any) -> None:
        tiles, groups, size = blocks.shape
        columns, words = digits.shape
        runs = words // 2 * planes
        found = np.zeros((4, 8), np.uint64)
        indexes = found.view(np.uint8)
        for tile in range(tiles):
            bytes_ = blocks[tile].reshape(-1)
            for first in range(0, groups, 4):
                for k in range(4):
                    for quarter in range(4):
                        run = 4 * tile + quarter
                        low, high = np.uint64(0), np.uint64(0)
                        if run < runs:
                            shift = np.uint64(plane + run % planes)
                            word = run // planes * 2
                            for i in range(span):
                                column = i * groups + first + k
                                if column < columns:
                                    bit = np.uint64(i)
                                    low |= ((digits[column, word] >> shift) & _ONES) << bit
                                    high |= ((digits[column, word + 1] >> shift) & _ONES) << bit
                        found[k, 2 * quarter] = low
                        found[k, 2 * quarter + 1] = high
                for half in range(2):
                    for j in range(2 * RUN):
                        line = 32 * half + 16 * (j % 2) + j // 2
                        if span == 6:
                            to = first * size + 32 * half + j
                            last = indexes[3, line]
                            bytes_[to] = indexes[0, line] | (last & 3) << 6
                            bytes_[to + 64] = indexes[1, line] | (last >> 2 & 3) << 6
                            bytes_[to + 128] = indexes[2, line] | (last >> 4) << 6
                        elif half == 0:
                            low_line, high_line = line, line + 32
                            for k in range(4):
                                to = (first + k) * size + j
                                bytes_[to] = indexes[k, low_line] | indexes[k, high_line] << 4

    return pack


@compiled(None, forceinline=True)
def _swap(a: Any, b: Any, bits: Any, low: Any) -> tuple[Any, Any]:
    """Exchange every second part of ``bits`` bits of one word with those before them of the other."""
    return (a & low) | (b & low) << bits, (a >> bits) & low | (b & ~low)


@compiled("")
def _turn(digits: Any, turned: Any) -> None:
    """Transpose bytes, eight by eight: ``digits`` ``(rows, cols / 8)``, ``turned`` ``(cols, rows / 8)``."""
    four, two, one = np.uint64(32), np.uint64(16), np.uint64(8)
    fours, twos = np.uint64(0x00000000FFFFFFFF), np.uint64(0x0000FFFF0000FFFF)
    ones = np.uint64(0x00FF00FF00FF00FF)
    # Of few rows at a time all columns, so that lines of memory are read and written whole.
    for first in range(0, turned.shape[1], 8):
        for column in range(digits.shape[1]):
            for row in range(first, min(first + 8, turned.shape[1])):
                at, to = 8 * row, 8 * column
                a, e = _swap(digits[at, column], digits[at + 4, column], four, fours)
                b, f = _swap(digits[at + 1, column], digits[at + 5, column], four, fours)
                c, g = _swap(digits[at + 2, column], digits[at + 6, column], four, fours)
                d, h = _swap(digits[at + 3, column], digits[at + 7, column], four, fours)
                a, c = _swap(a, c, two, twos)
                b, d = _swap(b, d, two, twos)
                e, g = _swap(e, g, two, twos)
                f, h = _swap(f, h, two, twos)
                turned[to, row], turned[to + 1, row] = _swap(a, b, one, ones)
                turned[to + 2, row], turned[to + 3, row] = _swap(c, d, one, ones)
                turned[to + 4, row], turned[to + 5, row] = _swap(e, f, one, ones)
                turned[to + 6, row], turned[to + 7, row] = _swap(g, h, one, ones)


def pack_digits(
    digits: NDArray[np.uint8], blocks: NDArray[np.uint8], *, plane: int, planes: int, transposed: bool
) -> None:
    """Write the blocks of one matrix.

    Args:
        digits: ``(rows, cols)``, both padded with zeros to a multiple of 16; bit k is 1 where the sign in
            plane k is +1.
        blocks: ``(tiles, groups, 8·span)``, written.
        plane: the first plane that is packed.
        planes: number of planes, one after the other, that are packed.
        transposed: whether the columns become the lines.
    """
    # The lines are along a row of words, and the columns of the product one below the other.
    words = digits.view(np.uint64)
    if not transposed:
        words = np.empty((digits.shape[1], digits.shape[0] // 8), np.uint64)
        _turn(digits.view(np.uint64), words)
    _packer(blocks.shape[2] // 8)(words, plane, planes, blocks)
