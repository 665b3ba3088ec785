"""Products of rows of a training step with a weight in bits: forward, and backward through the weight.

A weight ``W = offset + Σ_k scales[k] · B_k`` has scales for each row. Forward they multiply the sums.
Backward the rows are the columns of ``Wᵀ``, and scales multiply the vector before it is rounded:
``Wᵀ δ = Σ_k B_kᵀ (scales[k] ⊙ δ) + Σ_r offset_r δ_r``. Where the scales of all rows are the same multiples of
one unit, all planes share that vector and its tables; otherwise each plane is a *term* of its own.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qlstm_core.kernels.compile import compiled
from qlstm_core.kernels.levels import Levels
from qlstm_core.kernels.packed_weight import MULTIPLY_ROWS, PackedWeight, address_of
from qlstm_core.kernels.threads import share_work
from qlstm_core.packed.engine.kernel_calls import (
    bind,
    call_fill,
    call_product,
    call_quantize,
    call_rescale,
)
from qlstm_core.packed.engine.workspace import inner, integers, vector
from qlstm_core.packed.kernels.choose import ENVIRONMENT, Kernel, choose
from qlstm_core.packed.kernels.digits import pack_digits
from qlstm_core.packed.kernels.layout import LINES, aligned, blocks_shape, groups_of, pairing_of

AT_ONCE = 16
"""Vectors that share one reading of the bits."""

# What a header has where.
(
    QUANTIZE, FILL, PRODUCT, RESCALE, LIMIT, PLANES, SPAN, GROUPS, LENGTH, TRANSPOSED, LINE_COUNT, COLUMNS,
    PADDED, CODES, TABLES, SUMS, SCALES, NORMS, TOTALS, LIFTS, ROOM, SIZE,
) = range(22)  # fmt: skip

_SMALL, _LARGE = np.float32(2.0**-40), np.float32(2.0**40)
"""Between these, the largest of a vector leaves room for all that is computed from it."""
_FARTHEST = 120  # exponents of a power of two, and of its reciprocal, that float32 has


@inner
def _peak(x: Any, row: int, begin: int, columns: int, factors: Any) -> Any:
    """Return the largest magnitude of a vector, of all terms; NaN where there is one."""
    # As integers, the bits of magnitudes are in the order of the magnitudes, with infinity and NaN last.
    largest = np.int32(0)
    if factors.shape[0] == 0:
        for j in range(begin, begin + columns):
            largest = max(largest, np.float32(abs(x[row, j])).view(np.int32))
    for term in range(factors.shape[0]):
        for j in range(begin, begin + columns):
            largest = max(largest, np.float32(abs(x[row, j] * factors[term, j])).view(np.int32))
    return np.int32(largest).view(np.float32)


@inner
def _lift(peak: Any) -> Any:
    """Return the power of two that a vector with this peak is divided by, 1 for one of ordinary size."""
    if peak == 0 or _SMALL <= peak <= _LARGE:
        return np.float32(1)
    exponent = int(np.float32(peak).view(np.int32) >> 23) - 127
    return np.int32((min(max(exponent, -_FARTHEST), _FARTHEST) + 127) << 23).view(np.float32)


@inner
def _gather(x: Any, row: int, begin: int, columns: int, factors: Any, term: int, lift: Any, to: Any) -> None:
    """Write one term's vector, divided by its lift, zeros behind it."""
    down = np.float32(1) / lift
    if factors.shape[0] == 0:
        for j in range(columns):
            to[j] = x[row, begin + j] * down
    else:
        for j in range(columns):
            to[j] = x[row, begin + j] * factors[term, begin + j] * down
    to[columns:] = 0


@inner
def _by_floats(weight: Any, x: Any, row: int, group: int, out: Any, to: int, add: bool) -> None:
    """Multiply one vector by the weight itself, so that what is not finite spreads as it does in float32."""
    matrix = weight.matrix[group]
    rows, cols = matrix.shape
    if weight.header[TRANSPOSED]:
        for c in range(cols):
            total = np.float32(0)
            for r in range(rows):
                total += matrix[r, c] * x[row, group * rows + r]
            out[to, group * cols + c] = total + (out[to, group * cols + c] if add else np.float32(0))
    else:
        for r in range(rows):
            total = np.float32(0)
            for c in range(cols):
                total += matrix[r, c] * x[row, group * cols + c]
            out[to, group * rows + r] = total + (out[to, group * rows + r] if add else np.float32(0))


@inner
def _deliver(room: Any, lift: Any, out: Any, to: int, begin: int, add: bool) -> None:
    if add:
        for j in range(len(room)):
            out[to, begin + j] += room[j] * lift
    else:
        for j in range(len(room)):
            out[to, begin + j] = room[j] * lift


@inner
def _multiply_group(
    weight: Any, group: int, term: int, x: Any, row: int, count: int, out: Any, to: int, add: bool, work: Any
) -> None:
    """Multiply up to ``AT_ONCE`` rows by one term of one group."""
    h = weight.header
    columns, lines, span, groups = h[COLUMNS], h[LINE_COUNT], h[SPAN], h[GROUPS]
    number = term * weight.matrix.shape[0] + group
    padded = vector(work, h[PADDED], span * groups)
    codes = work[h[CODES] : h[CODES] + count * 2 * (span + 1) * groups].view(np.int16)
    codes = codes.reshape((count, span + 1, groups))
    size = h[PLANES] * (groups << span)
    tables = work[h[TABLES] : h[TABLES] + count * size].reshape((count, h[PLANES], groups << span))
    sums = integers(work, h[SUMS], count * h[LENGTH]).reshape((count, h[LENGTH]))
    scales, lifts = vector(work, h[SCALES], count), vector(work, h[LIFTS], count)
    norms, totals = integers(work, h[NORMS], count), integers(work, h[TOTALS], count)
    for k in range(count):
        _gather(x, row + k, group * columns, columns, weight.factors, term, lifts[k], padded)
        scales[k], norms[k], totals[k] = call_quantize(h[QUANTIZE], padded, h[LIMIT], codes[k])
    call_fill(h[FILL], codes, tables)
    call_product(h[PRODUCT], weight.blocks[number], tables, norms, sums)
    offsets = weight.offsets[number] if weight.offsets.shape[0] else weight.offsets.reshape(-1)
    room = vector(work, h[ROOM], lines)
    begin = group * lines
    for k in range(count):
        if lifts[k] == np.inf:
            continue
        if add or lifts[k] != 1:
            call_rescale(h[RESCALE], sums[k], scales[k], totals[k], weight.scales[number], offsets, room)
            _deliver(room, lifts[k], out, to + k, begin, add)
        else:
            own = out[to + k, begin : begin + lines]
            call_rescale(h[RESCALE], sums[k], scales[k], totals[k], weight.scales[number], offsets, own)


@compiled()
def multiply_rows(weight: Any, x: Any, row: int, count: int, out: Any, to: int, add: bool, part: int) -> None:
    """Write, or add, ``count`` rows of ``x``, from ``row`` on, times a weight in bits to those of ``out``.

    Args:
        weight: :class:`~qlstm_core.kernels.packed_weight.PackedWeight`, in bits.
        x: ``(…, groups · columns)`` float32.
        out: ``(…, groups · lines)`` float32.
        to: the first row of ``out``.
        part: number of the thread.
    """
    h, work = weight.header, weight.work[part]
    terms = max(weight.factors.shape[0], 1)
    for done in range(0, count, AT_ONCE):
        some = min(AT_ONCE, count - done)
        lifts = vector(work, h[LIFTS], some)
        for group in range(weight.matrix.shape[0]):
            for k in range(some):
                peak = _peak(x, row + done + k, group * h[COLUMNS], h[COLUMNS], weight.factors)
                lifts[k] = np.inf if peak == np.inf else _lift(peak)
                if peak == np.inf:
                    _by_floats(weight, x, row + done + k, group, out, to + done + k, add)
            for term in range(terms):
                _multiply_group(
                    weight, group, term, x, row + done, some, out, to + done, add or term > 0, work
                )


@cache
def _bound(asked: str | None, activation_bits: int, pairing: int) -> tuple[Kernel, Any, tuple[Any, ...], int]:
    """Return the kernel, its addresses, what must be kept for them, and the address of ``multiply_rows``."""
    kernel = choose()
    record, kept = bind(kernel, activation_bits, (pairing,))
    return kernel, record[0], kept, address_of(multiply_rows, MULTIPLY_ROWS)


def in_panels(panels: NDArray[np.float32]) -> PackedWeight:
    """Return a weight that is multiplied as floats."""
    no_rows, nothing = np.zeros((0, 0), np.float32), np.zeros((0, 0, 0), np.float32)
    return PackedWeight(
        address=0,
        panels=panels,
        header=np.zeros(0, np.int64),
        blocks=np.zeros((0, 0, 0, 0), np.uint8),
        factors=no_rows,
        scales=nothing,
        offsets=no_rows,
        matrix=nothing,
        work=np.zeros((0, 0), np.uint8),
    )


def in_bits(
    matrix: NDArray[np.float32], levels: Levels, activation_bits: int, *, transposed: bool, parts: int
) -> PackedWeight:
    """Return a weight in bits.

    Args:
        matrix: ``(groups, rows, cols)`` float32.
        levels: those of ``matrix``.
        activation_bits: 8, 12 or 16, bits of an entry of a table.
        transposed: whether vectors are multiplied by Wᵀ.
        parts: number of threads that multiply at the same time.
    """
    groups, rows, cols = matrix.shape
    lines, columns = (cols, rows) if transposed else (rows, cols)
    free = transposed and levels.ratios is None
    terms, planes = (levels.planes, 1) if free else (1, levels.planes)
    scales, offsets, factors = levels.scales, levels.offset, np.zeros((0, groups * columns), np.float32)
    if transposed:
        ratios = np.ones(1, np.float32) if levels.ratios is None else levels.ratios
        factors = levels.scales if levels.ratios is None else levels.scales[:1] / ratios[0]
        factors = np.ascontiguousarray(factors.reshape(terms, groups * columns))
        scales = np.broadcast_to(ratios[:, None, None], (planes, terms * groups, lines))
        if offsets is not None:  # of a grid, and so half a unit
            offsets = np.full((groups, lines), -0.5, np.float32)
    pairing = pairing_of(scales, groups_of(columns, 4))
    kernel, calls, _, address = _bound(os.environ.get(ENVIRONMENT), activation_bits, pairing)
    blocks = aligned((terms * groups, *blocks_shape((1, lines, columns), planes, kernel.span)), np.uint8)
    for number, own in enumerate(blocks):
        pack_digits(
            levels.digits[number % groups], own, plane=number // groups, planes=planes, transposed=transposed
        )
    kept = scales[::2] if pairing else scales
    header = np.zeros(SIZE, np.int64)
    header[[QUANTIZE, FILL, PRODUCT, RESCALE]] = [
        calls[name] for name in ("quantize", "fill", f"product_{pairing}", "rescale")
    ]
    header[[LIMIT, PLANES, SPAN]] = [calls[name] for name in ("limit", "planes", "span")]
    tiles, table_groups = blocks.shape[1:3]
    length = tiles * (LINES // 2 if pairing else LINES)
    header[[GROUPS, LENGTH, TRANSPOSED, LINE_COUNT, COLUMNS]] = (
        table_groups,
        length,
        transposed,
        lines,
        columns,
    )
    at = 0
    for place, size in {
        PADDED: 4 * kernel.span * table_groups,
        CODES: 2 * AT_ONCE * (kernel.span + 1) * table_groups,
        TABLES: AT_ONCE * int(calls["planes"]) * (table_groups << kernel.span),
        SUMS: 4 * AT_ONCE * length,
        SCALES: 4 * AT_ONCE,
        NORMS: 4 * AT_ONCE,
        TOTALS: 4 * AT_ONCE,
        LIFTS: 4 * AT_ONCE,
        ROOM: 4 * lines,
    }.items():
        header[place] = at
        at += -(-size // 64) * 64
    return PackedWeight(
        address=address,
        panels=np.zeros((0, 0, 0), np.float32),
        header=header,
        blocks=blocks,
        factors=factors,
        scales=np.ascontiguousarray(kept.swapaxes(0, 1).astype(np.float32)),
        offsets=np.zeros((0, lines), np.float32) if offsets is None else offsets,
        matrix=matrix,
        work=aligned((parts, at), np.uint8),
    )


def multiply_shared(
    weight: PackedWeight, x: NDArray[np.float32], out: NDArray[np.float32], parts: int
) -> None:
    """Write all rows of ``x`` times a weight in bits, in ``parts`` threads, each with rows of its own."""
    bounds = [len(x) * part // parts for part in range(parts + 1)]

    def run(part: int) -> None:
        begin = bounds[part]
        multiply_rows(weight, x, begin, bounds[part + 1] - begin, out, begin, False, part)

    share_work(parts, run)
