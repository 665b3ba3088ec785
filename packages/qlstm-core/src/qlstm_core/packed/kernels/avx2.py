"""Products by table look-up on AVX2.

Four activations make a table of 16 bytes; a weight nibble is an index into it; one shuffle instruction looks
up 32 lines. How that is summed is :mod:`qlstm_core.packed.kernels.tile_loop`'s.

A block of weights is read once for several tables: for two tables with both nibbles of a byte at a time, for
four with one nibble after the other. More would not fit 16 vector registers.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from qlstm_core.kernels.byte_vectors import (
    add8,
    add16,
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
)
from qlstm_core.kernels.compile import compiled
from qlstm_core.packed.kernels.choose import Kernel, has_avx2
from qlstm_core.packed.kernels.layout import MAX_COLUMNS
from qlstm_core.packed.kernels.tile_loop import SCHEMES, inlined, sweep, widening
from qlstm_core.plugins import PluginError


def kernel() -> Kernel:
    """Return the AVX2 kernel.

    Raises:
        PluginError: a host without AVX2.
    """
    if not has_avx2():
        raise PluginError("kernel 'avx2' needs a CPU with AVX2, and Numba set to compile for it")
    return Kernel(name="avx2", fill_tables=_fill_tables, product=_product)


@inlined
def _entries(codes: Any, vector: int, group: int) -> Any:
    """The 16 entries of one table, in 16-bit lanes."""
    groups = codes.shape[2]
    at = vector * 5 * groups + group
    entries = add16(splat16(codes, at + 4 * groups, 32), and_(splat16(codes, at, 32), mask16(0, 32)))
    entries = add16(entries, and_(splat16(codes, at + groups, 32), mask16(1, 32)))
    entries = add16(entries, and_(splat16(codes, at + 2 * groups, 32), mask16(2, 32)))
    return add16(entries, and_(splat16(codes, at + 3 * groups, 32), mask16(3, 32)))


@cache
def _fill_tables(activation_bits: int) -> Any:
    planes, width, _ = SCHEMES[activation_bits]

    @compiled(f"{activation_bits}")
    def fill(codes: Any, tables: Any) -> None:
        count, _, groups = codes.shape
        for vector in range(count):
            for group in range(groups):
                entries = _entries(codes, vector, group)
                at = 16 * (vector * planes * groups + group)
                if planes == 1:
                    store_low_bytes(tables, at, entries)
                else:
                    high = shift_right16(entries, width)
                    store_low_bytes(tables, at, sub16(entries, shift_left16(high, width)))
                    store_low_bytes(tables, at + 16 * groups, high)

    return fill


@inlined
def _both(blocks: Any, at: int) -> Any:
    word = load(blocks, at, 32)
    return join(and_(word, splat(15, 32)), and_(shift_right16(word, 4), splat(15, 32)))


@inlined
def _low(blocks: Any, at: int) -> Any:
    return and_(load(blocks, at, 32), splat(15, 32))


@inlined
def _high(blocks: Any, at: int) -> Any:
    return and_(shift_right16(load(blocks, at, 32), 4), splat(15, 32))


def _sweep(activation_bits: int, pairing: int, index: Any, halves: int, count: int) -> Any:
    """Return :func:`~qlstm_core.packed.kernels.tile_loop.sweep` by nibbles.

    Args:
        activation_bits, pairing, halves, count: those of ``sweep``.
        index: the function that reads the nibbles of a block: both, the low or the high ones.
    """
    run = SCHEMES[activation_bits][2]
    widen = widening(pairing)

    @inlined
    def add(total: Any, odd: Any, blocks: Any, at: int, tables: Any, first: int, stride: int) -> Any:
        found = lookup(tables, first, stride, count, index(blocks, at))
        for k in range(1, run):
            found = add8(found, lookup(tables, first + 16 * k, stride, count, index(blocks, at + 32 * k)))
        return widen(total, odd, found)

    return sweep(
        activation_bits, pairing, add, count=count, size=32, halves=halves, step=run, most=MAX_COLUMNS
    )


@cache
def _product(activation_bits: int, pairing: int) -> Any:
    planes = SCHEMES[activation_bits][0]
    weight = 1 + pairing
    high_half = 16 if pairing else 32
    low_of_four = _sweep(activation_bits, pairing, _low, 1, 4)
    high_of_four = _sweep(activation_bits, pairing, _high, 1, 4)
    both_of_two = _sweep(activation_bits, pairing, _both, 2, 2)
    both_of_one = _sweep(activation_bits, pairing, _both, 2, 1)

    @compiled(f"{activation_bits}-{pairing}")
    def product(blocks: Any, tables: Any, norms: Any, sums: Any) -> None:
        count = sums.shape[0]
        for vector in range(count):
            sums[vector] = -weight * norms[vector]
        table = 0
        while table + 4 <= count * planes:
            low_of_four(blocks, tables, table, sums, 0)
            high_of_four(blocks, tables, table, sums, high_half)
            table += 4
        if table + 2 <= count * planes:
            both_of_two(blocks, tables, table, sums, 0)
            table += 2
        if table < count * planes:
            both_of_one(blocks, tables, table, sums, 0)

    return product
