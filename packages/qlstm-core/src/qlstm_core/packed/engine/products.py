"""The products of one side of a cell: with bits or with floats, of vectors or of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from qlstm_core.kernels.float_vectors import first, lanes, load, store, zero
from qlstm_core.packed.engine.kernel_calls import (
    call_fill,
    call_one_hot,
    call_product,
    call_quantize,
    call_rescale,
)
from qlstm_core.packed.engine.operands import Group
from qlstm_core.packed.engine.program import LANES, NOWHERE, VECTORS
from qlstm_core.packed.engine.workspace import (
    blocks_of,
    copy,
    inner,
    integers,
    length_of,
    matrix_view,
    scales_of,
    vector,
)


@inner
def _gather(x: Any, row: Any, group: Any, cols: int, to: Any) -> None:
    """Bring a group's features together, zeros behind them."""
    whole = x.shape[1] // group.parts
    own = cols // group.parts
    for part in range(group.parts):
        start = part * whole + group.index * own
        copy(x[row, start : start + own], to[part * own : (part + 1) * own])
    to[cols:] = 0


@inner
def _multiply_floats(memory: Any, m: Any, x: Any, out: Any, row: Any, begin: Any) -> None:
    """Write ``W x`` of a matrix of floats into ``out[row, begin:]``."""
    weights = memory.floats[m.at : m.at + m.tiles * m.cols * LANES].reshape((m.tiles, m.cols, LANES))
    result = out.reshape((1, out.shape[0], out.shape[1]))
    n = lanes(weights)
    whole = first(weights, n)
    for tile in range(m.tiles):
        a, b, c, d = zero(weights), zero(weights), zero(weights), zero(weights)
        for k in range(m.cols):
            a = a + load(weights, tile, k, 0, whole) * x[k]
            b = b + load(weights, tile, k, n, whole) * x[k]
            c = c + load(weights, tile, k, 2 * n, whole) * x[k]
            d = d + load(weights, tile, k, 3 * n, whole) * x[k]
        left, to = m.rows - LANES * tile, begin + LANES * tile
        store(result, 0, row, to, first(weights, left), a)
        if left > n:
            store(result, 0, row, to + n, first(weights, left - n), b)
        if left > 2 * n:
            store(result, 0, row, to + 2 * n, first(weights, left - 2 * n), c)
        if left > 3 * n:
            store(result, 0, row, to + 3 * n, first(weights, left - 3 * n), d)


@inner
def _column(memory: Any, m: Any, token: Any, out: Any, row: Any, begin: Any) -> None:
    """Write column ``token`` of a matrix into ``out[row, begin:]``."""
    to = out[row, begin : begin + m.rows]
    if m.sums == 0:
        for r in range(m.rows):
            to[r] = memory.floats[m.at + (r // LANES * m.cols + token) * LANES + r % LANES]
    else:
        sums = integers(memory.work, memory.places.sums, length_of(m))
        call_one_hot(memory.kernel.one_hot, blocks_of(memory, m), token, m.pairing, sums)
        scales, offsets = scales_of(memory, m)
        call_rescale(memory.kernel.rescale, sums, np.float32(1), np.int32(1), scales, offsets, to)


@inner
def _multiply_bits(
    memory: Any, m: Any, x: Any, row: Any, count: Any, group: Any, out: Any, to_row: Any, begin: Any
) -> None:
    work, places = memory.work, memory.places
    span = memory.kernel.span
    padded = vector(work, places.padded, span * m.groups)
    size = 2 * (span + 1) * m.groups
    codes = work[places.codes : places.codes + count * size].view(np.int16)
    codes = codes.reshape((count, span + 1, m.groups))
    size = memory.kernel.planes * (m.groups << span)
    tables = work[places.tables : places.tables + count * size]
    tables = tables.reshape((count, memory.kernel.planes, m.groups << span))
    sums = integers(work, places.sums, count * length_of(m)).reshape((count, length_of(m)))
    steps, norms, totals = (
        vector(work, places.scales, count),
        integers(work, places.norms, count),
        integers(work, places.totals, count),
    )
    for k in range(count):
        _gather(x, row + k, group, m.cols, padded)
        steps[k], norms[k], totals[k] = call_quantize(
            memory.kernel.quantize, padded, memory.kernel.limit, codes[k]
        )
    call_fill(memory.kernel.fill, codes, tables)
    product = memory.kernel.product_0
    if m.pairing:
        product = memory.kernel.product_1 if m.pairing == 1 else memory.kernel.product_2
    call_product(product, blocks_of(memory, m), tables, norms, sums)
    scales, offsets = scales_of(memory, m)
    for k in range(count):
        to = out[to_row + k, begin : begin + m.rows]
        call_rescale(memory.kernel.rescale, sums[k], steps[k], totals[k], scales, offsets, to)


@inner
def apply(
    memory: Any, m: Any, x: Any, row: Any, count: Any, group: Any, out: Any, to_row: Any, begin: Any
) -> None:
    """``out[to_row + k, begin:] = W x[row + k]`` of a group of features of up to ``VECTORS`` vectors."""
    if m.sums > 0:
        _multiply_bits(memory, m, x, row, count, group, out, to_row, begin)
        return
    own = vector(memory.work, memory.places.padded, m.cols)
    for k in range(count):
        _gather(x, row + k, group, m.cols, own)
        _multiply_floats(memory, m, own, out, to_row + k, begin)


@inner
def side(
    memory: Any, low: int, number: Any, split: int, parts: Any, x: Any, tokens: Any, row: Any, rows: Any,
    out: Any,
) -> None:  # fmt: skip
    """Write ``W x`` of ``rows`` vectors, or of tokens where there are any, from ``row`` on into ``out``.

    Args:
        low: number of the matrix of low rank, or ``NOWHERE``.
        number: number of the side's first matrix.
        split: number of groups.
        parts: number of vectors, each split into the groups, that stand one after the other in ``x``.
    """
    # As a literal, a number would compile the called function once more.
    none, one = np.int64(0), np.int64(1)
    whole = Group(none, one, one)
    m = memory.matrices[number]
    for done in range(0, rows, VECTORS):
        count = min(VECTORS, rows - done)
        if low != NOWHERE:
            inside = memory.matrices[low]
            between = matrix_view(memory.work, memory.places.low_rank, count, inside.rows)
            if len(tokens):
                for k in range(count):
                    _column(memory, inside, tokens[row + done + k], between, k, none)
            else:
                apply(memory, inside, x, row + done, count, whole, between, none, none)
            apply(memory, m, between, none, count, whole, out, done, none)
        elif len(tokens):
            for k in range(done, done + count):
                index = tokens[row + k] // m.cols
                own = tokens[row + k] - index * m.cols
                if split > 1:
                    out[k, :] = 0  # a one-hot vector is zero in every group but its own
                _column(memory, memory.matrices[number + index], own, out, k, index * m.rows)
        else:
            for index in range(split):
                group = Group(index, split, parts)
                own_m = memory.matrices[number + index]
                apply(memory, own_m, x, row + done, count, group, out, done, index * m.rows)
