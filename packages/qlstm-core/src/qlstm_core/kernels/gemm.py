"""Matrix products inside compiled kernels: a small batch times a weight that is used at every time step.

A library packs the weight again at each call, which costs a small batch a good part of the product itself.
Here a matrix is packed once, into panels ``(panels, depth, width)`` of as many columns as a tile has, with
zeros beyond the last. A tile of the result stays in registers while the sum over ``depth`` runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types
from torch import Tensor

from qlstm_core.kernels.compile import compiled
from qlstm_core.kernels.float_vectors import (
    FLAGS,
    Vector,
    emit_first,
    emit_load,
    emit_store,
    first,
    intrinsic,
    lanes,
    llvm_vector,
    load,
    splat,
    store,
    zero,
)
from qlstm_core.kernels.threads import parts_worth, share_work

_LONG = ir.IntType(64)

# Sums fill the registers except those of the factors: of AVX-512's 32 registers 16; elsewhere, where a
# vector takes two of 16 registers, 12.
ROWS, VECTORS = (8, 2) if llvm.get_host_cpu_features().get("avx512f", False) else (6, 1)


def _offset(builder: Any, pointer: Any, *terms: Any) -> Any:
    for term in terms:
        pointer = builder.gep(pointer, [term])
    return pointer


def _tile(rows: int, vectors: int) -> Callable[..., None]:
    """Return the product of ``rows`` rows and ``vectors`` vectors of columns of one panel."""

    @intrinsic
    def tile(
        context: Any, a: Any, at: Any, row_stride: Any, depth_stride: Any, panels: Any, panel: Any,
        c: Any, to: Any, c_stride: Any, width: Any, add: Any,
    ) -> Any:  # fmt: skip
        vector = Vector(c.dtype)
        type_ = llvm_vector(vector)
        sides = [ir.Constant(_LONG, v * vector.lanes) for v in range(vectors)]

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            def array(k: int) -> Any:
                return context.make_array(signature.args[k])(context, builder, args[k])

            _, depth, panel_width = cgutils.unpack_tuple(builder, array(4).shape, 3)
            lines = [
                _offset(builder, array(0).data, args[1], builder.mul(args[2], ir.Constant(_LONG, r)))
                for r in range(rows)
            ]
            start = _offset(builder, array(4).data, builder.mul(args[5], builder.mul(depth, panel_width)))
            sums = [
                [cgutils.alloca_once_value(builder, ir.Constant(type_, None)) for _ in sides]
                for _ in range(rows)
            ]
            with cgutils.for_range(builder, depth) as loop:
                line = _offset(builder, start, builder.mul(loop.index, panel_width))
                columns = []
                for side in sides:
                    pointer = builder.bitcast(_offset(builder, line, side), type_.as_pointer())
                    columns.append(builder.load(pointer, align=vector.dtype.bitwidth // 8, typ=type_))
                along = builder.mul(loop.index, args[3])
                for r in range(rows):
                    factor = splat(builder, builder.load(_offset(builder, lines[r], along)), vector.lanes)
                    for column, place in zip(columns, sums[r], strict=True):
                        term = builder.fmul(factor, column, flags=FLAGS)
                        builder.store(builder.fadd(builder.load(place), term, flags=FLAGS), place)
            for v, side in enumerate(sides):
                inside = emit_first(builder, builder.sub(args[9], side), vector.lanes)
                for r in range(rows):
                    steps = (args[7], builder.mul(args[8], ir.Constant(_LONG, r)), side)
                    pointer = builder.bitcast(_offset(builder, array(6).data, *steps), type_.as_pointer())
                    with builder.if_then(args[10]):
                        before = emit_load(builder, vector, pointer, inside)
                        total = builder.fadd(builder.load(sums[r][v]), before, flags=FLAGS)
                        builder.store(total, sums[r][v])
                    emit_store(builder, vector, pointer, inside, builder.load(sums[r][v]))
            return context.get_dummy_value()

        long = types.int64
        return (
            types.void(a, long, long, long, panels, long, c, long, long, long, types.boolean),
            emit,
        )

    return tile


def _sweep(vectors: int) -> Callable[..., None]:
    """Return the product of any number of rows and ``vectors`` vectors of columns of one panel."""
    tall, four, two, one = (_tile(rows, vectors) for rows in (ROWS, 4, 2, 1))

    @compiled(None, forceinline=True)
    def sweep(
        a: Any, at: int, row_stride: int, depth_stride: int, count: int,
        panels: Any, panel: int, c: Any, to: int, width: int, add: bool,
    ) -> None:  # fmt: skip
        below = c.shape[1]
        r = 0
        while r + ROWS <= count:
            tall(a, at, row_stride, depth_stride, panels, panel, c, to, below, width, add)
            r, at, to = r + ROWS, at + ROWS * row_stride, to + ROWS * below
        while r + 4 <= count:
            four(a, at, row_stride, depth_stride, panels, panel, c, to, below, width, add)
            r, at, to = r + 4, at + 4 * row_stride, to + 4 * below
        while r + 2 <= count:
            two(a, at, row_stride, depth_stride, panels, panel, c, to, below, width, add)
            r, at, to = r + 2, at + 2 * row_stride, to + 2 * below
        if r < count:
            one(a, at, row_stride, depth_stride, panels, panel, c, to, below, width, add)

    return sweep


_wide, _narrow = _sweep(VECTORS), _sweep(1)


@compiled(None)
def multiply_panel(
    a: Any, at: int, row_stride: int, depth_stride: int, count: int,
    panels: Any, panel: int, c: Any, to: int, width: int, add: bool,
) -> None:  # fmt: skip
    """Write, or add, the product of ``count`` rows and one panel, of which ``width`` columns count.

    Element k of row r of ``a`` is at ``at + r · row_stride + k · depth_stride``; ``to`` is an element of c.
    """
    if width > lanes(c):
        _wide(a, at, row_stride, depth_stride, count, panels, panel, c, to, width, add)
    else:
        _narrow(a, at, row_stride, depth_stride, count, panels, panel, c, to, width, add)


@compiled(None)
def multiply(
    a: Any, a_row: int, count: int, panels: Any, c: Any, c_row: int, add: bool, share: int, shares: int
) -> None:  # fmt: skip
    """Write, or add, ``count`` rows of ``a``, from ``a_row`` on, times the packed matrix to those of ``c``.

    Where ``a`` has more columns than ``panels`` have depth, both and ``c`` consist of groups.

    Args:
        a, c: row by row, ``(…, groups · depth)`` and ``(…, groups · columns)``.
        share: number of the part of the panels to compute.
        shares: number of equal parts.
    """
    count_panels, depth, across = panels.shape
    groups = a.shape[1] // depth
    each = count_panels // groups
    columns = c.shape[1] // groups
    for panel in range(count_panels * share // shares, count_panels * (share + 1) // shares):
        group = panel // each
        column = (panel - group * each) * across
        multiply_panel(
            a, a_row * a.shape[1] + group * depth, a.shape[1], 1, count,
            panels, panel, c, c_row * c.shape[1] + group * columns + column, columns - column, add,
        )  # fmt: skip


@compiled(None)
def pack_panels(matrices: Any, row: int, panels: Any, share: int, shares: int) -> None:
    """Write a share of the panels of ``matrices``, ``(groups, rows, columns)``, from ``row`` on."""
    count, depth, across = panels.shape
    columns = matrices.shape[2]
    each = count // matrices.shape[0]
    for panel in range(count * share // shares, count * (share + 1) // shares):
        group = panel // each
        start = (panel - group * each) * across
        for k in range(depth):
            for j in range(0, across, lanes(panels)):
                if start + j < columns:
                    values = load(matrices, group, row + k, start + j, first(panels, columns - start - j))
                else:
                    values = zero(panels)
                store(panels, panel, k, j, first(panels, across), values)


@compiled("")
def _pack(matrices: Any, panels: Any, share: int, shares: int) -> None:
    pack_panels(matrices, 0, panels, share, shares)


@compiled("")
def _pack_transposed(matrices: Any, panels: Any, share: int, shares: int) -> None:
    """As :func:`pack_panels`, of ``(groups, columns, depth)``."""
    count, depth, across = panels.shape
    columns = matrices.shape[1]
    each = count // matrices.shape[0]
    for panel in range(count * share // shares, count * (share + 1) // shares):
        group = panel // each
        start = (panel - group * each) * across
        for j in range(across):
            if start + j < columns:
                for k in range(depth):
                    panels[panel, k, j] = matrices[group, start + j, k]
            else:
                for k in range(depth):
                    panels[panel, k, j] = 0


def panel_width(like: Tensor) -> int:
    """Return how many columns of the dtype of ``like`` a panel has."""
    return VECTORS * 64 // like.element_size()


def pack(matrix: Tensor | None, like: Tensor, *, transposed: bool = False) -> Any:
    """Return the panels of a matrix, an array ``(panels, depth, width)``; none if there is no matrix.

    Args:
        matrix: ``(depth, columns)``, or ``(groups, depth, columns)``.
        like: has the dtype of the panels.
        transposed: whether the matrix is given with depth last.
    """
    across = panel_width(like)
    if matrix is None:
        return like.new_empty(0, 1, across).numpy()
    given = (matrix if matrix.dim() == 3 else matrix.unsqueeze(0)).contiguous()
    groups, depth, columns = given.shape
    if transposed:
        depth, columns = columns, depth
    panels = like.new_empty(groups * -(-columns // across), depth, across).numpy()
    # To move an element takes about as long as sixty multiplications in a product.
    parts = parts_worth(60 * matrix.numel(), len(panels))
    write, array = _pack_transposed if transposed else _pack, given.numpy()
    share_work(parts, lambda part: write(array, panels, part, parts))
    return panels
