"""Compiled passes over one time step where statistics, if any, are over the batch: each unit by itself.

One call does everything but the matrix products, for units ``begin`` to ``end`` of every gate, of all
``count`` sequences alive at the step. Calls for different units may run at the same time if ``begin`` is a
multiple of a vector's lanes. Arguments are those of rows.py, but for the statistics: of all sides ``(steps,
…, units)``, of which ``t`` is the step's index. A side without normalisation has mean 0, variance 1 and
eps 0; the recurrent side and the cell take the rows as they come.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qlstm_core.kernels.compile import compiled
from qlstm_core.kernels.fastmath import tanh
from qlstm_core.kernels.float_vectors import first, lanes, load, store
from qlstm_core.layers.fused.compiled.batch_norm import back, measure, scale
from qlstm_core.layers.fused.compiled.gates import (
    gru_back,
    gru_gates,
    lstm_cell_back,
    lstm_gates,
    lstm_output_back,
)
from qlstm_core.layers.fused.compiled.operands import BIAS_C, BIAS_H, BIAS_X, GAIN_C, GAIN_H, GAIN_X, Side

# Where ``lines`` has the two sides.
X, H = 0, 2


@compiled(None, forceinline=True)
def _write_line(side: Any, s: int, j: int, inside: Any, t: int, lines: Any, kind: int) -> None:
    """Write a and b of ``gain ⊙ z + bias = a ⊙ p + b`` to ``lines[kind]`` and ``lines[kind + 1]``."""
    a = scale(side, t, s, j, inside) * load(side.gain, 0, s, j, inside)
    store(lines, kind, s, j, inside, a)
    b = load(side.bias, 0, s, j, inside) - load(side.mean, t, s, j, inside) * a
    store(lines, kind + 1, s, j, inside, b)


@compiled(None)
def _write_lines(side: Any, begin: int, end: int, t: int, lines: Any, kind: int) -> None:
    for s in range(lines.shape[1]):
        for j in range(begin, end, lanes(lines)):
            _write_line(side, s, j, first(lines, end - j), t, lines, kind)


@compiled(None, forceinline=True)
def _value(p: Any, row: int, s: int, j: int, inside: Any, lines: Any, kind: int) -> Any:
    """Return ``a ⊙ p + b``."""
    return load(p, row, s, j, inside) * load(lines, kind, s, j, inside) + load(lines, kind + 1, s, j, inside)


@compiled(None, forceinline=True)
def _sum(p: Any, row: int, x: Any, from_x: int, s: int, j: int, inside: Any, lines: Any) -> Any:
    """Return the pre-activation that both sides make together."""
    return _value(p, row, s, j, inside, lines, H) + _value(x, from_x, s, j, inside, lines, X)


@compiled(None, forceinline=True)
def _lstm_gates(
    p: Any, row: int, x: Any, from_x: int, s: int, j: int, inside: Any, lines: Any
) -> tuple[Any, Any, Any, Any]:
    return lstm_gates(
        _sum(p, row, x, from_x, s, j, inside, lines),
        _sum(p, row, x, from_x, s + 1, j, inside, lines),
        _sum(p, row, x, from_x, s + 2, j, inside, lines),
        _sum(p, row, x, from_x, s + 3, j, inside, lines),
    )


@compiled("")
def lstm_forward(
    begin: int, end: int, count: int, t: int, row: int, slot: int, x: Any, x_row: int, p: Any,
    previous: Any, cell: Any, h: Any, y: Any,
) -> None:  # fmt: skip
    """Write the new state, the cell's values and h, ``(batch, groups, units)``, and y if it has rows.

    What the backward pass needs goes to previous and to the statistics.
    """
    p_values, x_values, c = p.values, x.values, cell.values
    segments, groups, units = p_values.shape[1], c.shape[1], p_values.shape[2]
    lines = np.empty((4, segments, units), p_values.dtype)
    lines_c = np.empty((2, groups, units), p_values.dtype)
    if x.norm:
        measure(x, row, x_row, count, begin, end, t)
    if p.norm:
        measure(p, slot, 0, count, begin, end, t)
    _write_lines(x, begin, end, t, lines, X)
    _write_lines(p, begin, end, t, lines, H)
    for r in range(count):
        at, from_x = slot + r, x.index[row + r] - x_row
        for q in range(groups):
            s = 4 * q
            for j in range(begin, end, lanes(c)):
                inside = first(c, end - j)
                i, f, g, o = _lstm_gates(p_values, at, x_values, from_x, s, j, inside, lines)
                before = load(c, r, q, j, inside)
                store(previous, at, q, j, inside, before)
                store(c, r, q, j, inside, f * before + i * g)
                # Gate o waits in h until all of the batch's cell states are known.
                store(h, r, q, j, inside, o)
    if cell.norm:
        measure(cell, 0, 0, count, begin, end, t)
    _write_lines(cell, begin, end, t, lines_c, 0)
    for r in range(count):
        for q in range(groups):
            for j in range(begin, end, lanes(c)):
                inside = first(c, end - j)
                hidden = load(h, r, q, j, inside) * tanh(_value(c, r, q, j, inside, lines_c, 0))
                store(h, r, q, j, inside, hidden)
                if y.shape[0] > 0:
                    store(y, row + r, q, j, inside, hidden)


@compiled("")
def lstm_backward(
    begin: int, end: int, count: int, t: int, row: int, x: Any, x_row: int, p: Any, previous: Any,
    cell: Any, d: Any,
) -> None:  # fmt: skip
    """As the backward pass of rows.py, but that dx becomes ∂L/∂x, and sums hold gain_x's gradient too."""
    p_values, x_values, dx, dp = p.values, x.values, d.dx, d.dp
    dtype, segments, units, groups = p_values.dtype, p_values.shape[1], p_values.shape[2], d.dh.shape[1]
    # The cell state and the derivative with respect to its normalised value.
    after_c = np.empty((count, groups, units), dtype)
    d_cell = np.empty((count, groups, units), dtype)
    lines = np.empty((4, segments, units), dtype)
    lines_c = np.empty((2, groups, units), dtype)
    own = np.empty((3, segments, units), dtype)
    to = row - d.first
    _write_lines(x, begin, end, t, lines, X)
    _write_lines(p, begin, end, t, lines, H)
    _write_lines(cell, begin, end, t, lines_c, 0)
    for r in range(count):
        at, from_x = row + r, x.index[row + r] - x_row
        for q in range(groups):
            s = 4 * q
            for j in range(begin, end, lanes(d_cell)):
                inside = first(d_cell, end - j)
                i, f, g, o = _lstm_gates(p_values, at, x_values, from_x, s, j, inside, lines)
                after = f * load(previous, at, q, j, inside) + i * g
                store(after_c, r, q, j, inside, after)
                squashed = tanh(_value(after_c, r, q, j, inside, lines_c, 0))
                d_h = load(d.dh, r, q, j, inside)
                if d.dy.shape[0] > 0:
                    d_h = d_h + load(d.dy, at, q, j, inside)
                if d.hidden.shape[0] > 0:
                    store(d.hidden, to + r, q, j, inside, o * squashed)
                d_o, d_value = lstm_output_back(d_h, o, squashed)
                store(d_cell, r, q, j, inside, d_value)
                # Gates i, f and g wait in dp until all of the batch's derivatives d_value are known.
                store(dp, to + r, s, j, inside, i)
                store(dp, to + r, s + 1, j, inside, f)
                store(dp, to + r, s + 2, j, inside, g)
                store(dp, to + r, s + 3, j, inside, d_o)
                store(dx, to + r, s + 3, j, inside, d_o)
    normalised = Side(after_c, cell.index, cell.mean, cell.spread, cell.gain, cell.bias, cell.norm, cell.eps)
    back(d_cell, 0, normalised, 0, 0, count, begin, end, t, d.cell_sums, BIAS_C, GAIN_C, own)
    for r in range(count):
        for q in range(groups):
            s = 4 * q
            for j in range(begin, end, lanes(d_cell)):
                inside = first(d_cell, end - j)
                i = load(dp, to + r, s, j, inside)
                f = load(dp, to + r, s + 1, j, inside)
                g = load(dp, to + r, s + 2, j, inside)
                d_c = load(d.dc, r, q, j, inside) + load(d_cell, r, q, j, inside)
                store(d.dc, r, q, j, inside, d_c * f)
                d_i, d_f, d_g = lstm_cell_back(d_c, i, f, g, load(previous, row + r, q, j, inside))
                store(dx, to + r, s, j, inside, d_i)
                store(dp, to + r, s, j, inside, d_i)
                store(dx, to + r, s + 1, j, inside, d_f)
                store(dp, to + r, s + 1, j, inside, d_f)
                store(dx, to + r, s + 2, j, inside, d_g)
                store(dp, to + r, s + 2, j, inside, d_g)
    back(dx, to, x, row, x_row, count, begin, end, t, d.sums, BIAS_X, GAIN_X, own)
    back(dp, to, p, row, 0, count, begin, end, t, d.sums, BIAS_H, GAIN_H, own)


@compiled(None, forceinline=True)
def _gru_gates(
    p: Any, row: int, x: Any, from_x: int, s: int, j: int, inside: Any, lines: Any
) -> tuple[Any, Any, Any, Any]:
    """Return r, z, n and the recurrent side of n."""
    hn = _value(p, row, s + 2, j, inside, lines, H)
    r, z, n = gru_gates(
        _sum(p, row, x, from_x, s, j, inside, lines),
        _sum(p, row, x, from_x, s + 1, j, inside, lines),
        _value(x, from_x, s + 2, j, inside, lines, X),
        hn,
    )
    return r, z, n, hn


@compiled("")
def gru_forward(
    begin: int, end: int, count: int, t: int, row: int, slot: int, x: Any, x_row: int, p: Any,
    previous: Any, cell: Any, h: Any, y: Any,
) -> None:  # fmt: skip
    """As :func:`lstm_forward`, without a cell state."""
    p_values, x_values = p.values, x.values
    lines = np.empty((4, p_values.shape[1], p_values.shape[2]), p_values.dtype)
    if x.norm:
        measure(x, row, x_row, count, begin, end, t)
    if p.norm:
        measure(p, slot, 0, count, begin, end, t)
    _write_lines(x, begin, end, t, lines, X)
    _write_lines(p, begin, end, t, lines, H)
    for i in range(count):
        at, from_x = slot + i, x.index[row + i] - x_row
        for q in range(h.shape[1]):
            for j in range(begin, end, lanes(h)):
                inside = first(h, end - j)
                _, z, n, _ = _gru_gates(p_values, at, x_values, from_x, 3 * q, j, inside, lines)
                before = load(h, i, q, j, inside)
                after = n + z * (before - n)
                store(previous, at, q, j, inside, before)
                store(h, i, q, j, inside, after)
                store(y, row + i, q, j, inside, after)


@compiled("")
def gru_backward(
    begin: int, end: int, count: int, t: int, row: int, x: Any, x_row: int, p: Any, previous: Any,
    cell: Any, d: Any,
) -> None:  # fmt: skip
    """As :func:`lstm_backward`, without a cell state; what goes straight back to the state stays in dh."""
    p_values, x_values, dx, dp = p.values, x.values, d.dx, d.dp
    lines = np.empty((4, p_values.shape[1], p_values.shape[2]), p_values.dtype)
    own = np.empty((3, p_values.shape[1], p_values.shape[2]), p_values.dtype)
    _write_lines(x, begin, end, t, lines, X)
    _write_lines(p, begin, end, t, lines, H)
    for i in range(count):
        at, to, from_x = row + i, row + i - d.first, x.index[row + i] - x_row
        for q in range(d.dh.shape[1]):
            s = 3 * q
            for j in range(begin, end, lanes(own)):
                inside = first(own, end - j)
                r, z, n, hn = _gru_gates(p_values, at, x_values, from_x, s, j, inside, lines)
                d_h = load(d.dh, i, q, j, inside) + load(d.dy, at, q, j, inside)
                d_r, d_z, d_n = gru_back(d_h, r, z, n, hn, load(previous, at, q, j, inside))
                store(d.dh, i, q, j, inside, d_h * z)
                store(dx, to, s, j, inside, d_r)
                store(dp, to, s, j, inside, d_r)
                store(dx, to, s + 1, j, inside, d_z)
                store(dp, to, s + 1, j, inside, d_z)
                store(dx, to, s + 2, j, inside, d_n)
                store(dp, to, s + 2, j, inside, d_n * r)
    back(dx, row - d.first, x, row, x_row, count, begin, end, t, d.sums, BIAS_X, GAIN_X, own)
    back(dp, row - d.first, p, row, 0, count, begin, end, t, d.sums, BIAS_H, GAIN_H, own)
