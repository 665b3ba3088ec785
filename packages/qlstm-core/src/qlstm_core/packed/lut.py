"""Products by table look-up on AVX2.

Four activations make a table of 16 bytes; a weight nibble is an index into it; one shuffle instruction looks
up 32 lines. What is looked up is added in bytes for as long as they cannot overflow, then in 16 bits, then in
32:

- ``activation_bits=8``: one table per group with entries up to 255, widened after every look-up;
- 12: two tables, the low and the high 6 bits of an entry; four look-ups are added before they are widened;
- 16: two tables, the low and the high byte.

To widen, ``total += bytes`` and ``odd += bytes >> 8`` are kept in 16-bit lanes; ``total − 256·odd``, exact
modulo 2^16, is the sum of the even bytes. Where pairs of planes are added (see :attr:`PackedMatrix.pairing`),
one multiply-add of neighbouring bytes does all of that.

A block of weights is read once for several tables: for two tables with both nibbles of a byte at a time, for
four with one nibble after the other. More would not fit 16 vector registers.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from qlstm_core.jit import compiled, source_digest
from qlstm_core.packed.dispatch import Kernel, has_avx2
from qlstm_core.packed.simd import (
    accumulate,
    add8,
    add16,
    add_pairs,
    and_,
    join,
    load,
    lookup,
    mask16,
    shift_left16,
    shift_right16,
    splat,
    splat16,
    store_low_bytes,
    sub16,
    zeros,
)
from qlstm_core.plugins import PluginError

# activation_bits: tables per group, bits in each entry, look-ups added as bytes
_SCHEMES = {8: (1, 8, 1), 12: (2, 6, 4), 16: (2, 8, 1)}

# Vectors cannot leave compiled code: no wrapper for Python is made.
_inlined = compiled(None, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def kernel() -> Kernel:
    """Return the AVX2 kernel.

    Raises:
        PluginError: a host without AVX2.
    """
    if not has_avx2():
        raise PluginError("kernel 'avx2' needs a CPU with AVX2, and Numba set to compile for it")
    digest = source_digest(Path(__file__).parent)
    return Kernel(name="avx2", fill_tables=_fill_tables, product=_product, digest=digest)


@_inlined
def _entries(codes: Any, column: int, group: int) -> Any:
    """The 16 entries of one table, in 16-bit lanes."""
    groups = codes.shape[2]
    at = column * 5 * groups + group
    entries = add16(splat16(codes, at + 4 * groups), and_(splat16(codes, at), mask16(0)))
    entries = add16(entries, and_(splat16(codes, at + groups), mask16(1)))
    entries = add16(entries, and_(splat16(codes, at + 2 * groups), mask16(2)))
    return add16(entries, and_(splat16(codes, at + 3 * groups), mask16(3)))


@cache
def _fill_tables(activation_bits: int) -> Any:
    planes, width, _ = _SCHEMES[activation_bits]

    @compiled(f"{activation_bits}")
    def fill(codes: Any, tables: Any) -> None:
        columns, _, groups = codes.shape
        for column in range(columns):
            for group in range(groups):
                entries = _entries(codes, column, group)
                at = 16 * (column * planes * groups + group)
                if planes == 1:
                    store_low_bytes(tables, at, entries)
                else:
                    high = shift_right16(entries, width)
                    store_low_bytes(tables, at, sub16(entries, shift_left16(high, width)))
                    store_low_bytes(tables, at + 16 * groups, high)

    return fill


@_inlined
def _both(blocks: Any, at: int) -> Any:
    word = load(blocks, at)
    return join(and_(word, splat(15)), and_(shift_right16(word, 4), splat(15)))


@_inlined
def _low(blocks: Any, at: int) -> Any:
    return and_(load(blocks, at), splat(15))


@_inlined
def _high(blocks: Any, at: int) -> Any:
    return and_(shift_right16(load(blocks, at), 4), splat(15))


def _sweep(activation_bits: int, pairing: int, index: Any, halves: int, count: int) -> Any:
    """Return the function that adds the products of all tiles with ``count`` neighbouring tables to the sums.

    Args:
        activation_bits, pairing: as for :attr:`Kernel.product`.
        index: reads the nibbles of a block: both, the low or the high ones.
        halves: vectors of nibbles that ``index`` returns.
        count: tables per block read.
    """
    planes, width, run = _SCHEMES[activation_bits]
    vectors = halves * count
    largest = run * (2**width - 1) * (1 + pairing)
    chunk = 65535 // largest * run

    @_inlined
    def look_up(blocks: Any, at: int, tables: Any, first: int, group: int) -> Any:
        stride = 16 * blocks.shape[1]
        found = lookup(tables, first + 16 * group, stride, count, index(blocks, at + 32 * group))
        for g in range(group + 1, group + run):
            found = add8(found, lookup(tables, first + 16 * g, stride, count, index(blocks, at + 32 * g)))
        return found

    # The loop over chunks is outside: inside, LLVM would hold the sums of a tile in registers throughout.

    @_inlined
    def separate(blocks: Any, tables: Any, table: int, sums: Any, line: int) -> None:
        tiles, groups, _ = blocks.shape
        length = sums.shape[1]
        for start in range(0, groups, chunk):
            for tile in range(tiles):
                total = zeros(vectors)
                odd = zeros(vectors)
                for group in range(start, min(start + chunk, groups), run):
                    found = look_up(blocks, 32 * tile * groups, tables, 16 * table * groups, group)
                    total = add16(total, found)
                    odd = add16(odd, shift_right16(found, 8))
                even = sub16(total, shift_left16(odd, 8))
                at = table // planes * length + 64 * tile + line
                accumulate(sums, at, length, 32, even, halves, planes, width)
                accumulate(sums, at + 16, length, 32, odd, halves, planes, width)

    @_inlined
    def paired(blocks: Any, tables: Any, table: int, sums: Any, line: int) -> None:
        tiles, groups, _ = blocks.shape
        length = sums.shape[1]
        for start in range(0, groups, chunk):
            for tile in range(tiles):
                total = zeros(vectors)
                for group in range(start, min(start + chunk, groups), run):
                    found = look_up(blocks, 32 * tile * groups, tables, 16 * table * groups, group)
                    total = add16(total, add_pairs(found, 1, pairing))
                at = table // planes * length + 32 * tile + line
                accumulate(sums, at, length, 16, total, halves, planes, width)

    return paired if pairing else separate


@cache
def _product(activation_bits: int, pairing: int) -> Any:
    planes = _SCHEMES[activation_bits][0]
    weight = 1 + pairing
    high_half = 16 if pairing else 32
    low_of_four = _sweep(activation_bits, pairing, _low, 1, 4)
    high_of_four = _sweep(activation_bits, pairing, _high, 1, 4)
    both_of_two = _sweep(activation_bits, pairing, _both, 2, 2)
    both_of_one = _sweep(activation_bits, pairing, _both, 2, 1)

    @compiled(f"{activation_bits}-{pairing}")
    def product(blocks: Any, tables: Any, norms: Any, sums: Any) -> None:
        columns = sums.shape[0]
        for column in range(columns):
            sums[column] = -weight * norms[column]
        table = 0
        while table + 4 <= columns * planes:
            low_of_four(blocks, tables, table, sums, 0)
            high_of_four(blocks, tables, table, sums, high_half)
            table += 4
        if table + 2 <= columns * planes:
            both_of_two(blocks, tables, table, sums, 0)
            table += 2
        if table < columns * planes:
            both_of_one(blocks, tables, table, sums, 0)

    return product
