"""Compiled passes over one time step where statistics, if any, are over features: each row by itself.

One call does everything but the matrix products, for rows ``begin`` to ``end`` of the sequences alive at the
step. Calls for different rows may run at the same time.

Arguments that the passes share:
    row: where this step's rows start among those of the sequence.
    slot: where they start in what is kept: the recurrent side p, previous, and the moments of p and the cell.
    x, x_row: the input side, of which row i of the sequence takes row ``index[i] − x_row``.
    p: the recurrent side.
    previous: the state before each step, c_{t−1} or, for the GRU, h_{t−1}, ``(rows, groups, units)``.
    cell: the cell state, with its moments for each row of the sequence; of no meaning for the GRU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qlstm_core.fastmath import tanh
from qlstm_core.jit import compiled
from qlstm_core.layers.fused.features import back, standardized
from qlstm_core.layers.fused.gates import gru_back, gru_gates, lstm_cell_back, lstm_gates, lstm_output_back
from qlstm_core.layers.fused.tape import BIAS_C, BIAS_H, BIAS_X, GAIN_C, GAIN_H, GAIN_X
from qlstm_core.moments import NO_NORM, moments
from qlstm_core.vectors import first, lanes, load, store


@compiled(None, forceinline=True)
def _add(sums: Any, i: int, s: int, j: int, inside: Any, value: Any) -> None:
    store(sums, i, s, j, inside, load(sums, i, s, j, inside) + value)


@compiled(None)
def measure(side: Any, row: int) -> None:
    """Write the moments of every segment of a row of a side."""
    for s in range(side.values.shape[1]):
        side.mean[row, s], side.spread[row, s] = moments(side.values, row, s, side.norm, side.eps)


@compiled("")
def input_moments(x: Any) -> None:
    """Write the moments of every row of the input side."""
    for row in range(x.values.shape[0]):
        measure(x, row)


@compiled("")
def input_back(d: Any, x: Any, sums: Any) -> None:
    """Turn ``d``, ∂L/∂(normalised x), into ∂L/∂x in place; add to the gain's ``sums``, ``(4, S, units)``."""
    for row in range(x.values.shape[0]):
        for s in range(x.values.shape[1]):
            back(d, row, x.values, row, s, x, row, sums, GAIN_X)


@compiled("")
def scatter(d: Any, index: Any, table: Any) -> None:
    """``table[index[row]] += d[row]``."""
    units = d.shape[2]
    for row in range(d.shape[0]):
        for s in range(d.shape[1]):
            for j in range(0, units, lanes(d)):
                inside = first(d, units - j)
                _add(table, index[row], s, j, inside, load(d, row, s, j, inside))


@compiled(None)
def _accumulate(source: Any, kinds: int, sums: Any, first_kind: int) -> None:
    """``sums[first_kind + kind] += source[kind]``."""
    units = source.shape[2]
    for kind in range(kinds):
        for s in range(source.shape[1]):
            for j in range(0, units, lanes(source)):
                inside = first(source, units - j)
                _add(sums, first_kind + kind, s, j, inside, load(source, kind, s, j, inside))


@compiled(None, forceinline=True)
def _value(side: Any, row: int, s: int, j: int, inside: Any) -> Any:
    """Return gain ⊙ z + bias."""
    z = standardized(side.values, row, s, j, inside, side, row)
    return z * load(side.gain, 0, s, j, inside) + load(side.bias, 0, s, j, inside)


@compiled(None, forceinline=True)
def _sum(p: Any, row: int, x: Any, from_x: int, s: int, j: int, inside: Any) -> Any:
    """Return the pre-activation that both sides make together; the recurrent one has no bias of its own."""
    z = standardized(p.values, row, s, j, inside, p, row)
    return z * load(p.gain, 0, s, j, inside) + _value(x, from_x, s, j, inside)


@compiled(None, forceinline=True)
def _lstm_gates(
    p: Any, row: int, x: Any, from_x: int, s: int, j: int, inside: Any
) -> tuple[Any, Any, Any, Any]:
    return lstm_gates(
        _sum(p, row, x, from_x, s, j, inside),
        _sum(p, row, x, from_x, s + 1, j, inside),
        _sum(p, row, x, from_x, s + 2, j, inside),
        _sum(p, row, x, from_x, s + 3, j, inside),
    )


@compiled("")
def lstm_forward(
    begin: int, end: int, row: int, slot: int, x: Any, x_row: int, p: Any, previous: Any, cell: Any,
    h: Any, y: Any,
) -> None:  # fmt: skip
    """Write the new state, the cell's values and h, ``(batch, groups, units)``, and y if it has rows.

    What the backward pass needs goes to previous and to the moments of p and the cell.
    """
    units, c = p.values.shape[2], cell.values
    for r in range(begin, end):
        at, from_x = slot + r, x.index[row + r] - x_row
        measure(p, at)
        for q in range(c.shape[1]):
            s = 4 * q
            for j in range(0, units, lanes(h)):
                inside = first(h, units - j)
                i, f, g, o = _lstm_gates(p, at, x, from_x, s, j, inside)
                before = load(c, r, q, j, inside)
                after = f * before + i * g
                store(previous, at, q, j, inside, before)
                store(c, r, q, j, inside, after)
                # Where the cell state is normalised, gate o waits in h until all of it is known.
                store(h, r, q, j, inside, o * tanh(after) if cell.norm == NO_NORM else o)
            if cell.norm != NO_NORM:
                mean, scale = moments(c, r, q, cell.norm, cell.eps)
                cell.mean[at, q], cell.spread[at, q] = mean, scale
                for j in range(0, units, lanes(h)):
                    inside = first(h, units - j)
                    z = (load(c, r, q, j, inside) - mean) * scale
                    value = z * load(cell.gain, 0, q, j, inside) + load(cell.bias, 0, q, j, inside)
                    store(h, r, q, j, inside, load(h, r, q, j, inside) * tanh(value))
            if y.shape[0] > 0:
                for j in range(0, units, lanes(h)):
                    inside = first(h, units - j)
                    store(y, row + r, q, j, inside, load(h, r, q, j, inside))


@compiled(None, forceinline=True)
def _write_both_sides(d_x: Any, d_h: Any, d: Any, to: int, own: Any, s: int, j: int, inside: Any) -> None:
    """Write the derivatives with respect to both sides of one pre-activation; add them to the biases'."""
    store(d.dx, to, s, j, inside, d_x)
    store(d.dp, to, s, j, inside, d_h)
    _add(own, BIAS_X, s, j, inside, d_x)
    _add(own, BIAS_H, s, j, inside, d_h)


@compiled(None, forceinline=True)
def _incoming(d: Any, r: int, at: int, q: int, j: int, inside: Any) -> Any:
    """Return the derivative of h_t: what comes from the step after, and from the output."""
    d_h = load(d.dh, r, q, j, inside)
    if d.dy.shape[0] > 0:
        d_h = d_h + load(d.dy, at, q, j, inside)
    return d_h


@compiled("")
def lstm_backward(
    begin: int, end: int, part: int, row: int, x: Any, x_row: int, p: Any, previous: Any, cell: Any, d: Any
) -> None:
    """Turn ``d.dh`` and ``d.dc`` into derivatives with respect to the state before; write and add the others.

    All of it, but what goes through the recurrent product; of ``d.dh`` nothing else is left.
    """
    dtype, segments, units, groups = p.values.dtype, p.values.shape[1], p.values.shape[2], d.dh.shape[1]
    after_c = np.empty((1, groups, units), dtype)
    squashed = np.empty((1, groups, units), dtype)
    d_cell = np.empty((1, groups, units), dtype)
    # Sums over the rows of one step first: adding up few terms at a time loses less to rounding.
    own = np.zeros((3, segments, units), dtype)
    own_cell = np.zeros((2, groups, units), dtype)
    for r in range(begin, end):
        at, to, from_x = row + r, row + r - d.first, x.index[row + r] - x_row
        for q in range(groups):
            s = 4 * q
            if cell.norm != NO_NORM:
                for j in range(0, units, lanes(d_cell)):
                    inside = first(d_cell, units - j)
                    i, f, g, o = _lstm_gates(p, at, x, from_x, s, j, inside)
                    after = f * load(previous, at, q, j, inside) + i * g
                    z = (after - cell.mean[at, q]) * cell.spread[at, q]
                    tanh_c = tanh(z * load(cell.gain, 0, q, j, inside) + load(cell.bias, 0, q, j, inside))
                    _, d_value = lstm_output_back(_incoming(d, r, at, q, j, inside), o, tanh_c)
                    store(after_c, 0, q, j, inside, after)
                    store(squashed, 0, q, j, inside, tanh_c)
                    store(d_cell, 0, q, j, inside, d_value)
                    _add(own_cell, BIAS_C, q, j, inside, d_value)
                back(d_cell, 0, after_c, 0, q, cell, at, own_cell, GAIN_C)
            for j in range(0, units, lanes(d_cell)):
                inside = first(d_cell, units - j)
                i, f, g, o = _lstm_gates(p, at, x, from_x, s, j, inside)
                before = load(previous, at, q, j, inside)
                d_h = _incoming(d, r, at, q, j, inside)
                if cell.norm == NO_NORM:
                    tanh_c = tanh(f * before + i * g)
                    d_o, d_c = lstm_output_back(d_h, o, tanh_c)
                else:
                    tanh_c = load(squashed, 0, q, j, inside)
                    d_o, _ = lstm_output_back(d_h, o, tanh_c)
                    d_c = load(d_cell, 0, q, j, inside)
                if d.hidden.shape[0] > 0:
                    store(d.hidden, to, q, j, inside, o * tanh_c)
                d_c = d_c + load(d.dc, r, q, j, inside)
                store(d.dc, r, q, j, inside, d_c * f)
                d_i, d_f, d_g = lstm_cell_back(d_c, i, f, g, before)
                _write_both_sides(d_i, d_i, d, to, own, s, j, inside)
                _write_both_sides(d_f, d_f, d, to, own, s + 1, j, inside)
                _write_both_sides(d_g, d_g, d, to, own, s + 2, j, inside)
                _write_both_sides(d_o, d_o, d, to, own, s + 3, j, inside)
            for k in range(s, s + 4):
                back(d.dp, to, p.values, at, k, p, at, own, GAIN_H)
    _accumulate(own, 3, d.sums, 4 * part)
    _accumulate(own_cell, 2, d.cell_sums, 2 * part)


@compiled(None, forceinline=True)
def _gru_gates(
    p: Any, row: int, x: Any, from_x: int, s: int, j: int, inside: Any
) -> tuple[Any, Any, Any, Any]:
    """Return r, z, n and the recurrent side of n."""
    hn = _value(p, row, s + 2, j, inside)
    r, z, n = gru_gates(
        _value(p, row, s, j, inside) + _value(x, from_x, s, j, inside),
        _value(p, row, s + 1, j, inside) + _value(x, from_x, s + 1, j, inside),
        _value(x, from_x, s + 2, j, inside),
        hn,
    )
    return r, z, n, hn


@compiled("")
def gru_forward(
    begin: int, end: int, row: int, slot: int, x: Any, x_row: int, p: Any, previous: Any, cell: Any,
    h: Any, y: Any,
) -> None:  # fmt: skip
    """As :func:`lstm_forward`, without a cell state."""
    units = p.values.shape[2]
    for i in range(begin, end):
        at, from_x = slot + i, x.index[row + i] - x_row
        measure(p, at)
        for q in range(h.shape[1]):
            for j in range(0, units, lanes(h)):
                inside = first(h, units - j)
                _, z, n, _ = _gru_gates(p, at, x, from_x, 3 * q, j, inside)
                before = load(h, i, q, j, inside)
                after = n + z * (before - n)
                store(previous, at, q, j, inside, before)
                store(h, i, q, j, inside, after)
                store(y, row + i, q, j, inside, after)


@compiled("")
def gru_backward(
    begin: int, end: int, part: int, row: int, x: Any, x_row: int, p: Any, previous: Any, cell: Any, d: Any
) -> None:
    """As :func:`lstm_backward`, without a cell state; what goes straight back to the state stays in dh."""
    units = p.values.shape[2]
    own = np.zeros((3, p.values.shape[1], units), p.values.dtype)
    for i in range(begin, end):
        at, to, from_x = row + i, row + i - d.first, x.index[row + i] - x_row
        for q in range(d.dh.shape[1]):
            s = 3 * q
            for j in range(0, units, lanes(own)):
                inside = first(own, units - j)
                r, z, n, hn = _gru_gates(p, at, x, from_x, s, j, inside)
                d_h = load(d.dh, i, q, j, inside) + load(d.dy, at, q, j, inside)
                d_r, d_z, d_n = gru_back(d_h, r, z, n, hn, load(previous, at, q, j, inside))
                store(d.dh, i, q, j, inside, d_h * z)
                _write_both_sides(d_r, d_r, d, to, own, s, j, inside)
                _write_both_sides(d_z, d_z, d, to, own, s + 1, j, inside)
                _write_both_sides(d_n, d_n * r, d, to, own, s + 2, j, inside)
            for k in range(s, s + 3):
                back(d.dp, to, p.values, at, k, p, at, own, GAIN_H)
    _accumulate(own, 3, d.sums, 4 * part)
