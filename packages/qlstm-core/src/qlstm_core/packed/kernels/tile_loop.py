"""The loops around table look-ups: over the groups that tables cover, and over the tiles of a matrix.

What is looked up is added in bytes for as long as they cannot overflow, then in 16 bits, then in 32:

- ``activation_bits=8``: one table per group with entries up to 255, widened after every look-up;
- 12: two tables, the low and the high 6 bits of an entry; four look-ups are added before they are widened;
- 16: two tables, the low and the high byte.

To widen bytes, ``total += bytes`` and ``odd += odd bytes`` are kept in 16-bit lanes; ``total − 256·odd``,
exact modulo 2^16, is the sum of the even bytes. Where pairs of planes are added (see
:attr:`~qlstm_core.packed.kernels.layout.PackedMatrix.pairing`), one multiply-add of neighbours does it all.
"""

from __future__ import annotations

from typing import Any

from qlstm_core.kernels.byte_vectors import accumulate, add16, add_pairs, shift_left16, sub16, zeros
from qlstm_core.kernels.compile import compiled

SCHEMES = {8: (1, 8, 1), 12: (2, 6, 4), 16: (2, 8, 1)}
"""activation_bits: tables per group, bits in each entry, look-ups added as bytes."""

# Vectors cannot leave compiled code: no wrapper for Python is made.
inlined = compiled(None, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def widening(pairing: int) -> Any:
    """Return the function that adds bytes to sums of 16 bits."""

    @inlined
    def separate(total: Any, odd: Any, found: Any) -> Any:
        return add16(total, found), add16(odd, add_pairs(found, 0, 1))

    @inlined
    def paired(total: Any, odd: Any, found: Any) -> Any:
        return add16(total, add_pairs(found, 1, pairing)), odd

    return paired if pairing else separate


def sweep(
    activation_bits: int, pairing: int, add: Any, *, count: int, size: int, halves: int, step: int, most: int
) -> Any:
    """Return the function that adds the products of all tiles with neighbouring tables to the sums.

    Args:
        activation_bits, pairing: those of :attr:`~qlstm_core.packed.kernels.choose.Kernel.product`.
        add: ``add(total, odd, blocks, at, tables, first, stride) ↦ total, odd`` adds ``step`` groups.
        count: number of tables for each block that is read.
        size: number of bytes in a vector.
        halves: number of halves of a tile's lines that are summed, 1 or 2.
        step: number of groups that ``add`` adds, a divisor of their number.
        most: number of groups after which sums go to memory even if they could grow on, so that tables stay
            in the cache.
    """
    planes, width, run = SCHEMES[activation_bits]
    vectors = 32 * halves * count // size
    largest = run * (2**width - 1) * (1 + pairing)
    chunk = min(65535 // largest * run, most) // step * step
    lines = 32 if pairing else 64

    # The loop over chunks is outside: inside, LLVM would hold the sums of a tile in registers throughout.
    @inlined
    def swept(blocks: Any, tables: Any, table: int, sums: Any, line: int) -> None:
        tiles, groups, block = blocks.shape
        length = sums.shape[1]
        stride = tables.shape[2]
        entries = stride // groups
        for start in range(0, groups, chunk):
            for tile in range(tiles):
                total = zeros(vectors, size)
                odd = zeros(vectors, size)
                for group in range(start, min(start + chunk, groups), step):
                    at = block * (tile * groups + group)
                    total, odd = add(total, odd, blocks, at, tables, table * stride + entries * group, stride)
                to = table // planes * length + lines * tile + line
                if pairing:
                    accumulate(sums, to, length, 16, total, halves, planes, width)
                else:
                    even = sub16(total, shift_left16(odd, 8))
                    accumulate(sums, to, length, 32, even, halves, planes, width)
                    accumulate(sums, to + 16, length, 32, odd, halves, planes, width)

    return swept
