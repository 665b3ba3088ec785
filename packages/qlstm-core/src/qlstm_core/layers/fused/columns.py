"""Compiled passes over one time step where statistics, if any, are over the batch: each unit by itself.

One call does everything but the matrix products, for units ``begin`` to ``end`` of every gate, of all
``count`` sequences alive at the step. Calls for different units may run at the same time if ``begin`` is a
multiple of a vector's lanes. Arguments are those of rows.py, but for the statistics:

    x_mean, x_var, p_mean, p_var: ``(steps, S, units)``. c_mean, c_var: ``(steps, groups, units)``. ``t``: the
        step's index in them. A side without normalisation has mean 0, variance 1 and eps 0.
    flags: whether the statistics of the input side, the recurrent side and the cell are those of the batch,
        which the forward pass then writes, or given; then as in rows.py.
    order: 0, 1, 2 and so on, at least as many as p has rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qlstm_core.fastmath import tanh
from qlstm_core.jit import compiled
from qlstm_core.layers.fused.batch import back, measure, scale
from qlstm_core.layers.fused.gates import gru_back, gru_gates, lstm_cell_back, lstm_gates, lstm_output_back
from qlstm_core.layers.fused.tape import BIAS_C, BIAS_H, BIAS_X, GAIN_C, GAIN_H, GAIN_X
from qlstm_core.vectors import first, lanes, load, store

# Where ``lines`` has the two sides.
X, H = 0, 2


@compiled(None, forceinline=True)
def _write_line(
    s: int,
    j: int,
    inside: Any,
    t: int,
    mean: Any,
    var: Any,
    eps: float,
    gain: Any,
    bias: Any,
    lines: Any,
    kind: int,
) -> None:
    """Write a and b of ``gain ⊙ z + bias = a ⊙ p + b`` to ``lines[kind]`` and ``lines[kind + 1]``."""
    a = scale(var, t, s, j, inside, eps) * load(gain, 0, s, j, inside)
    store(lines, kind, s, j, inside, a)
    store(lines, kind + 1, s, j, inside, load(bias, 0, s, j, inside) - load(mean, t, s, j, inside) * a)


@compiled(None)
def _write_lines(
    begin: int, end: int, t: int, mean: Any, var: Any, eps: float, gain: Any, bias: Any, lines: Any, kind: int
) -> None:
    for s in range(lines.shape[1]):
        for j in range(begin, end, lanes(lines)):
            _write_line(s, j, first(lines, end - j), t, mean, var, eps, gain, bias, lines, kind)


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
    begin: int, end: int, count: int, t: int, row: int, slot: int, order: Any,
    x: Any, index: Any, x_row: int, x_mean: Any, x_var: Any,
    p: Any, p_mean: Any, p_var: Any,
    gain_x: Any, gain_h: Any, bias_x: Any, bias_h: Any, flags: Any, eps: Any,
    previous: Any, c: Any, c_mean: Any, c_var: Any, gain_c: Any, bias_c: Any, h: Any, y: Any,
) -> None:  # fmt: skip
    """Write the new state c and h, ``(batch, groups, units)``, and y, ``(rows, groups, units)``.

    What the backward pass needs goes to previous and to the statistics.
    """
    lines = np.empty((4, p.shape[1], p.shape[2]), p.dtype)
    lines_c = np.empty((2, c.shape[1], p.shape[2]), p.dtype)
    if flags[0]:
        measure(x, index, row, x_row, count, begin, end, x_mean, x_var, t)
    if flags[1]:
        measure(p, order, slot, 0, count, begin, end, p_mean, p_var, t)
    _write_lines(begin, end, t, x_mean, x_var, eps[0], gain_x, bias_x, lines, X)
    _write_lines(begin, end, t, p_mean, p_var, eps[1], gain_h, bias_h, lines, H)
    for r in range(count):
        at, from_x = slot + r, index[row + r] - x_row
        for q in range(c.shape[1]):
            s = 4 * q
            for j in range(begin, end, lanes(p)):
                inside = first(p, end - j)
                i, f, g, o = _lstm_gates(p, at, x, from_x, s, j, inside, lines)
                before = load(c, r, q, j, inside)
                store(previous, at, q, j, inside, before)
                store(c, r, q, j, inside, f * before + i * g)
                # Gate o waits in h until all of the batch's cell states are known.
                store(h, r, q, j, inside, o)
    if flags[2]:
        measure(c, order, 0, 0, count, begin, end, c_mean, c_var, t)
    _write_lines(begin, end, t, c_mean, c_var, eps[2], gain_c, bias_c, lines_c, 0)
    for r in range(count):
        for q in range(c.shape[1]):
            for j in range(begin, end, lanes(p)):
                inside = first(p, end - j)
                hidden = load(h, r, q, j, inside) * tanh(_value(c, r, q, j, inside, lines_c, 0))
                store(h, r, q, j, inside, hidden)
                if flags[3]:
                    store(y, row + r, q, j, inside, hidden)


@compiled("")
def lstm_backward(
    begin: int, end: int, count: int, t: int, row: int, order: Any,
    x: Any, index: Any, x_row: int, x_mean: Any, x_var: Any,
    p: Any, p_mean: Any, p_var: Any,
    gain_x: Any, gain_h: Any, bias_x: Any, bias_h: Any, flags: Any, eps: Any,
    previous: Any, c_mean: Any, c_var: Any, gain_c: Any, bias_c: Any,
    dy: Any, dh: Any, dc: Any, d_row: int, dx: Any, dp: Any, hidden: Any, sums: Any, cell_sums: Any,
) -> None:  # fmt: skip
    """As the backward pass of rows.py, but that dx becomes ∂L/∂x, and sums hold gain_x's gradient too."""
    # The cell state and the derivative with respect to its normalised value.
    cell = np.empty((count, dh.shape[1], p.shape[2]), p.dtype)
    d_cell = np.empty((count, dh.shape[1], p.shape[2]), p.dtype)
    lines = np.empty((4, p.shape[1], p.shape[2]), p.dtype)
    lines_c = np.empty((2, dh.shape[1], p.shape[2]), p.dtype)
    own = np.empty((3, p.shape[1], p.shape[2]), p.dtype)
    to = row - d_row
    _write_lines(begin, end, t, x_mean, x_var, eps[0], gain_x, bias_x, lines, X)
    _write_lines(begin, end, t, p_mean, p_var, eps[1], gain_h, bias_h, lines, H)
    _write_lines(begin, end, t, c_mean, c_var, eps[2], gain_c, bias_c, lines_c, 0)
    for r in range(count):
        at, from_x = row + r, index[row + r] - x_row
        for q in range(dh.shape[1]):
            s = 4 * q
            for j in range(begin, end, lanes(p)):
                inside = first(p, end - j)
                i, f, g, o = _lstm_gates(p, at, x, from_x, s, j, inside, lines)
                after = f * load(previous, at, q, j, inside) + i * g
                store(cell, r, q, j, inside, after)
                squashed = tanh(_value(cell, r, q, j, inside, lines_c, 0))
                d_h = load(dh, r, q, j, inside)
                if flags[3]:
                    d_h = d_h + load(dy, at, q, j, inside)
                if flags[4]:
                    store(hidden, to + r, q, j, inside, o * squashed)
                d_o, d_value = lstm_output_back(d_h, o, squashed)
                store(d_cell, r, q, j, inside, d_value)
                # Gates i, f and g wait in dp until all of the batch's derivatives d_value are known.
                store(dp, to + r, s, j, inside, i)
                store(dp, to + r, s + 1, j, inside, f)
                store(dp, to + r, s + 2, j, inside, g)
                store(dp, to + r, s + 3, j, inside, d_o)
                store(dx, to + r, s + 3, j, inside, d_o)
    back(
        d_cell, 0, cell, order, 0, 0, count, begin, end,
        c_mean, c_var, t, eps[2], gain_c, flags[2], cell_sums, BIAS_C, GAIN_C, own,
    )  # fmt: skip
    for r in range(count):
        for q in range(dh.shape[1]):
            s = 4 * q
            for j in range(begin, end, lanes(p)):
                inside = first(p, end - j)
                i = load(dp, to + r, s, j, inside)
                f = load(dp, to + r, s + 1, j, inside)
                g = load(dp, to + r, s + 2, j, inside)
                d_c = load(dc, r, q, j, inside) + load(d_cell, r, q, j, inside)
                store(dc, r, q, j, inside, d_c * f)
                d_i, d_f, d_g = lstm_cell_back(d_c, i, f, g, load(previous, row + r, q, j, inside))
                store(dx, to + r, s, j, inside, d_i)
                store(dp, to + r, s, j, inside, d_i)
                store(dx, to + r, s + 1, j, inside, d_f)
                store(dp, to + r, s + 1, j, inside, d_f)
                store(dx, to + r, s + 2, j, inside, d_g)
                store(dp, to + r, s + 2, j, inside, d_g)
    back(
        dx, to, x, index, row, x_row, count, begin, end,
        x_mean, x_var, t, eps[0], gain_x, flags[0], sums, BIAS_X, GAIN_X, own,
    )  # fmt: skip
    back(
        dp, to, p, order, row, 0, count, begin, end,
        p_mean, p_var, t, eps[1], gain_h, flags[1], sums, BIAS_H, GAIN_H, own,
    )  # fmt: skip


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
    begin: int, end: int, count: int, t: int, row: int, slot: int, order: Any,
    x: Any, index: Any, x_row: int, x_mean: Any, x_var: Any,
    p: Any, p_mean: Any, p_var: Any,
    gain_x: Any, gain_h: Any, bias_x: Any, bias_h: Any, flags: Any, eps: Any,
    previous: Any, h: Any, y: Any,
) -> None:  # fmt: skip
    """As :func:`lstm_forward`, without a cell state."""
    lines = np.empty((4, p.shape[1], p.shape[2]), p.dtype)
    if flags[0]:
        measure(x, index, row, x_row, count, begin, end, x_mean, x_var, t)
    if flags[1]:
        measure(p, order, slot, 0, count, begin, end, p_mean, p_var, t)
    _write_lines(begin, end, t, x_mean, x_var, eps[0], gain_x, bias_x, lines, X)
    _write_lines(begin, end, t, p_mean, p_var, eps[1], gain_h, bias_h, lines, H)
    for i in range(count):
        at, from_x = slot + i, index[row + i] - x_row
        for q in range(h.shape[1]):
            for j in range(begin, end, lanes(p)):
                inside = first(p, end - j)
                _, z, n, _ = _gru_gates(p, at, x, from_x, 3 * q, j, inside, lines)
                before = load(h, i, q, j, inside)
                after = n + z * (before - n)
                store(previous, at, q, j, inside, before)
                store(h, i, q, j, inside, after)
                store(y, row + i, q, j, inside, after)


@compiled("")
def gru_backward(
    begin: int, end: int, count: int, t: int, row: int, order: Any,
    x: Any, index: Any, x_row: int, x_mean: Any, x_var: Any,
    p: Any, p_mean: Any, p_var: Any,
    gain_x: Any, gain_h: Any, bias_x: Any, bias_h: Any, flags: Any, eps: Any,
    previous: Any, dy: Any, dh: Any, d_row: int, dx: Any, dp: Any, sums: Any,
) -> None:  # fmt: skip
    """As :func:`lstm_backward`, without a cell state; what goes straight back to the state stays in dh."""
    lines = np.empty((4, p.shape[1], p.shape[2]), p.dtype)
    own = np.empty((3, p.shape[1], p.shape[2]), p.dtype)
    _write_lines(begin, end, t, x_mean, x_var, eps[0], gain_x, bias_x, lines, X)
    _write_lines(begin, end, t, p_mean, p_var, eps[1], gain_h, bias_h, lines, H)
    for i in range(count):
        at, to, from_x = row + i, row + i - d_row, index[row + i] - x_row
        for q in range(dh.shape[1]):
            s = 3 * q
            for j in range(begin, end, lanes(p)):
                inside = first(p, end - j)
                r, z, n, hn = _gru_gates(p, at, x, from_x, s, j, inside, lines)
                d_h = load(dh, i, q, j, inside) + load(dy, at, q, j, inside)
                d_r, d_z, d_n = gru_back(d_h, r, z, n, hn, load(previous, at, q, j, inside))
                store(dh, i, q, j, inside, d_h * z)
                store(dx, to, s, j, inside, d_r)
                store(dp, to, s, j, inside, d_r)
                store(dx, to, s + 1, j, inside, d_z)
                store(dp, to, s + 1, j, inside, d_z)
                store(dx, to, s + 2, j, inside, d_n)
                store(dp, to, s + 2, j, inside, d_n * r)
    back(
        dx, row - d_row, x, index, row, x_row, count, begin, end,
        x_mean, x_var, t, eps[0], gain_x, flags[0], sums, BIAS_X, GAIN_X, own,
    )  # fmt: skip
    back(
        dp, row - d_row, p, order, row, 0, count, begin, end,
        p_mean, p_var, t, eps[1], gain_h, flags[1], sums, BIAS_H, GAIN_H, own,
    )  # fmt: skip
