"""Products by table look-up on AVX-512 with VBMI.

Six activations make a table of 64 bytes; one instruction looks up 64 lines by the low 6 bits of their bytes.
Four groups, whose indexes stand in three registers (see :mod:`qlstm_core.packed.kernels.layout`), are read
at a time.
Otherwise as :mod:`qlstm_core.packed.kernels.avx2`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from qlstm_core.kernels.byte_vectors import (
    add8,
    add16,
    and_,
    load,
    lookup,
    mask16,
    or_,
    shift_left16,
    shift_right16,
    splat,
    splat16,
    store_low_bytes,
    sub16,
)
from qlstm_core.kernels.compile import compiled
from qlstm_core.packed.kernels.choose import Kernel, has_vbmi
from qlstm_core.packed.kernels.tile_loop import SCHEMES, inlined, sweep, widening
from qlstm_core.plugins import PluginError

_CACHED = 384
"""Tables of 64 bytes that leave room in the first cache."""


def kernel() -> Kernel:
    """Return the AVX-512 kernel.

    Raises:
        PluginError: a host without AVX-512 VBMI.
    """
    if not has_vbmi():
        raise PluginError("kernel 'avx512' needs a CPU with AVX-512 VBMI, and Numba set to compile for it")
    return Kernel(name="avx512", fill_tables=_fill_tables, product=_product, span=6)


@inlined
def _entries(codes: Any, at: int, groups: int) -> Any:
    """The 64 entries of one table, in 16-bit lanes of two vectors."""
    entries = add16(splat16(codes, at + 6 * groups, 64), and_(splat16(codes, at, 64), mask16(0, 64)))
    entries = add16(entries, and_(splat16(codes, at + groups, 64), mask16(1, 64)))
    entries = add16(entries, and_(splat16(codes, at + 2 * groups, 64), mask16(2, 64)))
    entries = add16(entries, and_(splat16(codes, at + 3 * groups, 64), mask16(3, 64)))
    entries = add16(entries, and_(splat16(codes, at + 4 * groups, 64), mask16(4, 64)))
    return entries, add16(entries, splat16(codes, at + 5 * groups, 64))


@cache
def _fill_tables(activation_bits: int) -> Any:
    planes, width, _ = SCHEMES[activation_bits]

    @inlined
    def put(tables: Any, at: int, stride: int, entries: Any) -> None:
        if planes == 1:
            store_low_bytes(tables, at, entries)
        else:
            high = shift_right16(entries, width)
            store_low_bytes(tables, at, sub16(entries, shift_left16(high, width)))
            store_low_bytes(tables, at + stride, high)

    @compiled(f"{activation_bits}")
    def fill(codes: Any, tables: Any) -> None:
        count, rows, groups = codes.shape
        for vector in range(count):
            for group in range(groups):
                first, second = _entries(codes, vector * rows * groups + group, groups)
                at = 64 * (vector * planes * groups + group)
                put(tables, at, 64 * groups, first)
                put(tables, at + 32, 64 * groups, second)

    return fill


@inlined
def _last(first: Any, second: Any, third: Any) -> Any:
    """The fourth index, two bits from the top of each of three bytes; its own top bits are of no account."""
    low = or_(
        and_(shift_right16(first, 6), splat(3, 64)),
        and_(shift_right16(second, 4), splat(0xFC, 64)),
    )
    return or_(and_(low, splat(15, 64)), and_(shift_right16(third, 2), splat(0xF0, 64)))


def _sweep(activation_bits: int, pairing: int, count: int) -> Any:
    """Return :func:`~qlstm_core.packed.kernels.tile_loop.sweep` by four groups of six columns."""
    run = SCHEMES[activation_bits][2]
    widen = widening(pairing)

    @inlined
    def add(total: Any, odd: Any, blocks: Any, at: int, tables: Any, first: int, stride: int) -> Any:
        one, two, three = load(blocks, at, 64), load(blocks, at + 64, 64), load(blocks, at + 128, 64)
        a = lookup(tables, first, stride, count, one)
        b = lookup(tables, first + 64, stride, count, two)
        c = lookup(tables, first + 128, stride, count, three)
        d = lookup(tables, first + 192, stride, count, _last(one, two, three))
        if run == 4:
            return widen(total, odd, add8(add8(a, b), add8(c, d)))
        total, odd = widen(total, odd, a)
        total, odd = widen(total, odd, b)
        total, odd = widen(total, odd, c)
        return widen(total, odd, d)

    return sweep(activation_bits, pairing, add, count=count, size=64, halves=2, step=4, most=_CACHED // count)


@cache
def _product(activation_bits: int, pairing: int) -> Any:
    planes = SCHEMES[activation_bits][0]
    weight = 1 + pairing
    four = _sweep(activation_bits, pairing, 4)
    two = _sweep(activation_bits, pairing, 2)
    one = _sweep(activation_bits, pairing, 1)

    @compiled(f"{activation_bits}-{pairing}")
    def product(blocks: Any, tables: Any, norms: Any, sums: Any) -> None:
        count = sums.shape[0]
        for vector in range(count):
            sums[vector] = -weight * norms[vector]
        table = 0
        while table + 4 <= count * planes:
            four(blocks, tables, table, sums, 0)
            table += 4
        if table + 2 <= count * planes:
            two(blocks, tables, table, sums, 0)
            table += 2
        if table < count * planes:
            one(blocks, tables, table, sums, 0)

    return product
