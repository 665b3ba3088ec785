"""Packed weights times float activations: quantize, fill tables, look up, scale."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qlstm_core.kernels.compile import compiled
from qlstm_core.packed.kernels.activations import quantize
from qlstm_core.packed.kernels.choose import Kernel, choose
from qlstm_core.packed.kernels.layout import ENTRY_LIMIT, RUN, PackedMatrix, aligned, check_activation_bits


@compiled()
def rescale(sums: Any, scale: Any, total: Any, row_scales: Any, row_offsets: Any, out: Any) -> None:
    """Scale a kernel's integers for one vector: ``W x = scale · (offset · Σq + Σ_k scales_k · S_k)``.

    Args:
        sums: ``(length,)`` int32, as written by :attr:`Kernel.product`.
        scale: scale of the activations, float32.
        total: ``Σq``, int32.
        row_scales: ``(sums per row, rows)`` float32, see :meth:`PackedMatrix.row_scales`.
        row_offsets: ``(rows,)`` float32, or none.
        out: ``(rows,)`` float32, written.
    """
    count, rows = row_scales.shape
    if count == 1:
        # Without planes in between, sums are in the order of the rows.
        own = row_scales[0]
        for r in range(rows):
            out[r] = scale * (own[r] * np.float32(sums[r]))
    else:
        _rescale_planes(sums, scale, row_scales, out)
    if len(row_offsets):
        whole = scale * np.float32(total)
        for r in range(rows):
            out[r] += row_offsets[r] * whole


@compiled(None)
def _rescale_planes(sums: Any, scale: Any, row_scales: Any, out: Any) -> None:
    count, rows = row_scales.shape
    for k in range(count):
        own = row_scales[k]
        for first in range(0, rows, RUN):
            run = sums[first * count + RUN * k :]
            scales, to = own[first:], out[first:]
            if k == 0:
                for j in range(min(RUN, rows - first)):
                    to[j] = scale * (scales[j] * np.float32(run[j]))
            else:
                for j in range(min(RUN, rows - first)):
                    to[j] += scale * (scales[j] * np.float32(run[j]))


@compiled()
def one_hot(blocks: Any, column: int, pairing: int, sums: Any) -> None:
    """Write what a kernel's product would give for a vector that is 1 in one column and 0 elsewhere.

    Args:
        blocks, sums: as for :attr:`Kernel.product`; ``sums`` of one vector.
        column: number of the column, from 0 to span·groups − 1.
        pairing: see :attr:`PackedMatrix.pairing`.
    """
    tiles, groups, size = blocks.shape
    bit = column // groups
    group = column % groups
    lines = 32 if pairing else 64
    for tile in range(tiles):
        bits = blocks[tile].reshape(-1)
        for half in range(2):
            if size == 32:
                at, shift = 32 * group, bit + 4 * half
            elif group % 4 < 3:
                at, shift = 192 * (group // 4) + 64 * (group % 4) + 32 * half, bit
            else:
                at, shift = 192 * (group // 4) + 64 * (bit // 2) + 32 * half, 6 + bit % 2
            line = tile * lines + half * lines // 2
            for j in range(RUN):
                even = np.int32(2 * (bits[at + 2 * j] >> shift & 1) - 1)
                odd = np.int32(2 * (bits[at + 2 * j + 1] >> shift & 1) - 1)
                if pairing:
                    sums[line + j] = even + pairing * odd
                else:
                    sums[line + j] = even
                    sums[line + RUN + j] = odd


@compiled()
def _quantize_all(vectors: Any, limit: int, codes: Any, scales: Any, norms: Any, totals: Any) -> None:
    for i in range(vectors.shape[0]):
        scales[i], norms[i], totals[i] = quantize(vectors[i], limit, codes[i])


@compiled()
def _rescale_all(sums: Any, scales: Any, totals: Any, row_scales: Any, row_offsets: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        rescale(sums[i], scales[i], totals[i], row_scales, row_offsets, out[i])


def tables_shape(count: int, groups: int, activation_bits: int, span: int) -> tuple[int, int, int]:
    """Return the shape of the tables of ``count`` vectors."""
    return count, 1 if activation_bits == 8 else 2, groups << span


def matmul(
    vectors: NDArray[np.float32],
    matrix: PackedMatrix,
    *,
    activation_bits: int = 12,
    kernel: Kernel | None = None,
) -> NDArray[np.float32]:
    """Return ``vectors · Wᵀ`` with the activations rounded to the tables' precision.

    Args:
        vectors: ``(count, cols)`` float32.
        matrix: the weight, ``(gates, rows, cols)``.
        activation_bits: bits of a table entry, the sum of a group's activations: 8, 12 or 16.
        kernel: a kernel of the matrix's span; default: :func:`qlstm_core.packed.kernels.choose.choose`.

    Returns:
        ``(count, gates, rows)`` float32. A vector with an infinity or NaN gives NaNs.

    Raises:
        ValueError: shapes that do not fit, or another ``activation_bits``.
    """
    gates, rows, cols = matrix.shape
    if vectors.ndim != 2 or vectors.shape[1] != cols:
        raise ValueError(f"vectors must have shape (count, {cols}), got {vectors.shape}")
    check_activation_bits(activation_bits)
    chosen = kernel or choose()
    if chosen.span != matrix.span:
        raise ValueError(
            f"kernel {chosen.name!r} needs a span of {chosen.span}, the matrix has {matrix.span}"
        )
    count, groups = len(vectors), matrix.groups
    padded = aligned((count, matrix.span * groups), np.float32)
    padded[:, :cols] = vectors
    scales, norms, totals = np.empty(count, np.float32), np.empty(count, np.int32), np.empty(count, np.int32)
    codes = aligned((count, matrix.span + 1, groups), np.int16)
    tables = aligned(tables_shape(count, groups, activation_bits, matrix.span), np.uint8)
    sums = aligned((count, matrix.length), np.int32)
    out = np.empty((count, gates * rows), np.float32)
    _quantize_all(padded, ENTRY_LIMIT[activation_bits], codes, scales, norms, totals)
    chosen.fill_tables(activation_bits)(codes, tables)
    chosen.product(activation_bits, matrix.pairing)(matrix.blocks, tables, norms, sums)
    _rescale_all(sums, scales, totals, matrix.row_scales(), matrix.row_offsets(), out)
    return out.reshape(count, gates, rows)
