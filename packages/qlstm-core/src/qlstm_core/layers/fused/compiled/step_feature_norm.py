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

from qlstm_core.kernels.compile import compiled
from qlstm_core.kernels.fastmath import tanh
from qlstm_core.kernels.feature_moments import NO_NORM, moments
from qlstm_core.kernels.float_vectors import first, lanes, load, store
from qlstm_core.layers.fused.compiled.feature_norm import back, standardized
from qlstm_core.layers.fused.compiled.gates import (
    gru_back,
    gru_gates,
    lstm_cell_back,
    lstm_gates,
    lstm_output_back,
)
from qlstm_core.layers.fused.compiled.operands import BIAS_C, BIAS_H, BIAS_X, GAIN_C, GAIN_H, GAIN_X


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
            back(d, row, x.values, row, s, x.mean, x.spread, row, x.gain, x.norm, sums, GAIN_X)


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
def _value(p: Any, row: int, s: int, j: int, inside: Any, mean: Any, scale: Any, gain: Any, bias: Any) -> Any:
    """Return gain ⊙ z + bias."""
    z = standardized(p, row, s, j, inside, mean, scale, row)
    return z * load(gain, 0, s, j, inside) + load(bias, 0, s, j, inside)


@compiled(None, forceinline=True)
def _sum(
    p: Any, row: int, x: Any, from_x: int, s: int, j: int, inside: Any,
    p_mean: Any, p_scale: Any, gain_h: Any, x_mean: Any, x_scale: Any, gain_x: Any, bias_x: Any,
) -> Any:  # fmt: skip
    """Return the pre-activation that both sides make together; the recurrent one has no bias of its own."""
    z = standardized(p, row, s, j, inside, p_mean, p_scale, row)
    return z * load(gain_h, 0, s, j, inside) + _value(
        x, from_x, s, j, inside, x_mean, x_scale, gain_x, bias_x
    )


@compiled(None, forceinline=True)
def _lstm_gates(
    p: Any, row: int, x: Any, from_x: int, s: int, j: int, inside: Any,
    p_mean: Any, p_scale: Any, gain_h: Any, x_mean: Any, x_scale: Any, gain_x: Any, bias_x: Any,
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    return lstm_gates(
        _sum(p, row, x, from_x, s, j, inside, p_mean, p_scale, gain_h, x_mean, x_scale, gain_x, bias_x),
        _sum(p, row, x, from_x, s + 1, j, inside, p_mean, p_scale, gain_h, x_mean, x_scale, gain_x, bias_x),
        _sum(p, row, x, from_x, s + 2, j, inside, p_mean, p_scale, gain_h, x_mean, x_scale, gain_x, bias_x),
        _sum(p, row, x, from_x, s + 3, j, inside, p_mean, p_scale, gain_h, x_mean, x_scale, gain_x, bias_x),
    )


@compiled("")
def lstm_forward(
    begin: int, end: int, row: int, slot: int, x: Any, x_row: int, p: Any, previous: Any, cell: Any,
    h: Any, y: Any,
) -> None:  # fmt: skip
    """Write the new state, the cell's values and h, ``(batch, groups, units)``, and y if it has rows.

    What the backward pass needs goes to previous and to the moments of p and the cell.
    """
    # Out of the bundles first: in the inner loop each look into one would cost.
    x_values, index, x_mean, x_scale, gain_x, bias_x = x.values, x.index, x.mean, x.spread, x.gain, x.bias
    p_values, p_mean, p_scale, gain_h = p.values, p.mean, p.spread, p.gain
    units, c = p_values.shape[2], cell.values
    norm_c, eps_c, c_mean, c_scale = cell.norm, cell.eps, cell.mean, cell.spread
    gain_c, bias_c, outputs = cell.gain, cell.bias, y.shape[0] > 0
    for r in range(begin, end):
        at, from_x = slot + r, index[row + r] - x_row
        for q in range(c.shape[1]):
            s = 4 * q
            for k in range(s, s + 4):
                p_mean[at, k], p_scale[at, k] = moments(p_values, at, k, p.norm, p.eps)
            for j in range(0, units, lanes(h)):
                inside = first(h, units - j)
                i, f, g, o = _lstm_gates(
                    p_values, at, x_values, from_x, s, j, inside,
                    p_mean, p_scale, gain_h, x_mean, x_scale, gain_x, bias_x,
                )  # fmt: skip
                before = load(c, r, q, j, inside)
                after = f * before + i * g
                store(previous, at, q, j, inside, before)
                store(c, r, q, j, inside, after)
                # Where the cell state is normalised, gate o waits in h until all of it is known.
                store(h, r, q, j, inside, o * tanh(after) if norm_c == NO_NORM else o)
            if norm_c != NO_NORM:
                mean, scale = moments(c, r, q, norm_c, eps_c)
                c_mean[at, q], c_scale[at, q] = mean, scale
                for j in range(0, units, lanes(h)):
                    inside = first(h, units - j)
                    z = (load(c, r, q, j, inside) - mean) * scale
                    value = z * load(gain_c, 0, q, j, inside) + load(bias_c, 0, q, j, inside)
                    store(h, r, q, j, inside, load(h, r, q, j, inside) * tanh(value))
            if outputs:
                for j in range(0, units, lanes(h)):
                    inside = first(h, units - j)
                    store(y, row + r, q, j, inside, load(h, r, q, j, inside))


@compiled(None, forceinline=True)
def _write_both_sides(
    d_x: Any, d_h: Any, dx: Any, dp: Any, to: int, own: Any, s: int, j: int, inside: Any
) -> None:
    """Write the derivatives with respect to both sides of one pre-activation; add them to the biases'."""
    store(dx, to, s, j, inside, d_x)
    store(dp, to, s, j, inside, d_h)
    _add(own, BIAS_X, s, j, inside, d_x)
    _add(own, BIAS_H, s, j, inside, d_h)


@compiled("")
def lstm_backward(
    begin: int, end: int, part: int, row: int, x: Any, x_row: int, p: Any, previous: Any, cell: Any, d: Any
) -> None:
    """Turn ``d.dh`` and ``d.dc`` into derivatives with respect to the state before; write and add the others.

    All of it, but what goes through the recurrent product; of ``d.dh`` nothing else is left.
    """
    # Out of the bundles first: in the inner loop each look into one would cost.
    x_values, index, x_mean, x_scale, gain_x, bias_x = x.values, x.index, x.mean, x.spread, x.gain, x.bias
    p_values, p_mean, p_scale, gain_h = p.values, p.mean, p.spread, p.gain
    norm_c, c_mean, c_scale, gain_c, bias_c = cell.norm, cell.mean, cell.spread, cell.gain, cell.bias
    dy, dh, dc, dx, dp, hidden = d.dy, d.dh, d.dc, d.dx, d.dp, d.hidden
    outputs, projected = dy.shape[0] > 0, hidden.shape[0] > 0
    dtype, segments, units, groups = p_values.dtype, p_values.shape[1], p_values.shape[2], dh.shape[1]
    after_c = np.empty((1, groups, units), dtype)
    squashed = np.empty((1, groups, units), dtype)
    d_cell = np.empty((1, groups, units), dtype)
    # Sums over the rows of one step first: adding up few terms at a time loses less to rounding.
    own = np.zeros((3, segments, units), dtype)
    own_cell = np.zeros((2, groups, units), dtype)
    for r in range(begin, end):
        at, to, from_x = row + r, row + r - d.first, index[row + r] - x_row
        for q in range(groups):
            s = 4 * q
            if norm_c != NO_NORM:
                for j in range(0, units, lanes(d_cell)):
                    inside = first(d_cell, units - j)
                    i, f, g, o = _lstm_gates(
                        p_values, at, x_values, from_x, s, j, inside,
                        p_mean, p_scale, gain_h, x_mean, x_scale, gain_x, bias_x,
                    )  # fmt: skip
                    after = f * load(previous, at, q, j, inside) + i * g
                    z = (after - c_mean[at, q]) * c_scale[at, q]
                    tanh_c = tanh(z * load(gain_c, 0, q, j, inside) + load(bias_c, 0, q, j, inside))
                    d_h = load(dh, r, q, j, inside)
                    if outputs:
                        d_h = d_h + load(dy, at, q, j, inside)
                    _, d_value = lstm_output_back(d_h, o, tanh_c)
                    store(after_c, 0, q, j, inside, after)
                    store(squashed, 0, q, j, inside, tanh_c)
                    store(d_cell, 0, q, j, inside, d_value)
                    _add(own_cell, BIAS_C, q, j, inside, d_value)
                back(d_cell, 0, after_c, 0, q, c_mean, c_scale, at, gain_c, norm_c, own_cell, GAIN_C)
            for j in range(0, units, lanes(d_cell)):
                inside = first(d_cell, units - j)
                i, f, g, o = _lstm_gates(
                    p_values, at, x_values, from_x, s, j, inside,
                    p_mean, p_scale, gain_h, x_mean, x_scale, gain_x, bias_x,
                )  # fmt: skip
                before = load(previous, at, q, j, inside)
                d_h = load(dh, r, q, j, inside)
                if outputs:
                    d_h = d_h + load(dy, at, q, j, inside)
                if norm_c == NO_NORM:
                    tanh_c = tanh(f * before + i * g)
                    d_o, d_c = lstm_output_back(d_h, o, tanh_c)
                else:
                    tanh_c = load(squashed, 0, q, j, inside)
                    d_o, _ = lstm_output_back(d_h, o, tanh_c)
                    d_c = load(d_cell, 0, q, j, inside)
                if projected:
                    store(hidden, to, q, j, inside, o * tanh_c)
                d_c = d_c + load(dc, r, q, j, inside)
                store(dc, r, q, j, inside, d_c * f)
                d_i, d_f, d_g = lstm_cell_back(d_c, i, f, g, before)
                _write_both_sides(d_i, d_i, dx, dp, to, own, s, j, inside)
                _write_both_sides(d_f, d_f, dx, dp, to, own, s + 1, j, inside)
                _write_both_sides(d_g, d_g, dx, dp, to, own, s + 2, j, inside)
                _write_both_sides(d_o, d_o, dx, dp, to, own, s + 3, j, inside)
            for k in range(s, s + 4):
                back(dp, to, p_values, at, k, p_mean, p_scale, at, gain_h, p.norm, own, GAIN_H)
    _accumulate(own, 3, d.sums, 4 * part)
    _accumulate(own_cell, 2, d.cell_sums, 2 * part)


@compiled(None, forceinline=True)
def _gru_gates(
    p: Any, row: int, x: Any, from_x: int, s: int, j: int, inside: Any,
    p_moments: Any, gain_h: Any, bias_h: Any, x_moments: Any, gain_x: Any, bias_x: Any,
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    """Return r, z, n and the recurrent side of n; moments are pairs of mean and scale."""
    p_mean, p_scale = p_moments
    x_mean, x_scale = x_moments
    hn = _value(p, row, s + 2, j, inside, p_mean, p_scale, gain_h, bias_h)
    r, z, n = gru_gates(
        _value(p, row, s, j, inside, p_mean, p_scale, gain_h, bias_h)
        + _value(x, from_x, s, j, inside, x_mean, x_scale, gain_x, bias_x),
        _value(p, row, s + 1, j, inside, p_mean, p_scale, gain_h, bias_h)
        + _value(x, from_x, s + 1, j, inside, x_mean, x_scale, gain_x, bias_x),
        _value(x, from_x, s + 2, j, inside, x_mean, x_scale, gain_x, bias_x),
        hn,
    )
    return r, z, n, hn


@compiled("")
def gru_forward(
    begin: int, end: int, row: int, slot: int, x: Any, x_row: int, p: Any, previous: Any, cell: Any,
    h: Any, y: Any,
) -> None:  # fmt: skip
    """As :func:`lstm_forward`, without a cell state."""
    # Out of the bundles first: in the inner loop each look into one would cost.
    x_values, index, x_mean, x_scale, gain_x, bias_x = x.values, x.index, x.mean, x.spread, x.gain, x.bias
    p_values, p_mean, p_scale, gain_h, bias_h = p.values, p.mean, p.spread, p.gain, p.bias
    p_moments, x_moments = (p_mean, p_scale), (x_mean, x_scale)
    units = p_values.shape[2]
    for i in range(begin, end):
        at, from_x = slot + i, index[row + i] - x_row
        for q in range(h.shape[1]):
            s = 3 * q
            for k in range(s, s + 3):
                p_mean[at, k], p_scale[at, k] = moments(p_values, at, k, p.norm, p.eps)
            for j in range(0, units, lanes(h)):
                inside = first(h, units - j)
                _, z, n, _ = _gru_gates(
                    p_values, at, x_values, from_x, s, j, inside,
                    p_moments, gain_h, bias_h, x_moments, gain_x, bias_x,
                )  # fmt: skip
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
    # Out of the bundles first: in the inner loop each look into one would cost.
    x_values, index, x_mean, x_scale, gain_x, bias_x = x.values, x.index, x.mean, x.spread, x.gain, x.bias
    p_values, p_mean, p_scale, gain_h, bias_h = p.values, p.mean, p.spread, p.gain, p.bias
    p_moments, x_moments = (p_mean, p_scale), (x_mean, x_scale)
    dy, dh, dx, dp = d.dy, d.dh, d.dx, d.dp
    units = p_values.shape[2]
    own = np.zeros((3, p_values.shape[1], units), p_values.dtype)
    for i in range(begin, end):
        at, to, from_x = row + i, row + i - d.first, index[row + i] - x_row
        for q in range(dh.shape[1]):
            s = 3 * q
            for j in range(0, units, lanes(own)):
                inside = first(own, units - j)
                r, z, n, hn = _gru_gates(
                    p_values, at, x_values, from_x, s, j, inside,
                    p_moments, gain_h, bias_h, x_moments, gain_x, bias_x,
                )  # fmt: skip
                d_h = load(dh, i, q, j, inside) + load(dy, at, q, j, inside)
                d_r, d_z, d_n = gru_back(d_h, r, z, n, hn, load(previous, at, q, j, inside))
                store(dh, i, q, j, inside, d_h * z)
                _write_both_sides(d_r, d_r, dx, dp, to, own, s, j, inside)
                _write_both_sides(d_z, d_z, dx, dp, to, own, s + 1, j, inside)
                _write_both_sides(d_n, d_n * r, dx, dp, to, own, s + 2, j, inside)
            for k in range(s, s + 3):
                back(dp, to, p_values, at, k, p_mean, p_scale, at, gain_h, p.norm, own, GAIN_H)
    _accumulate(own, 3, d.sums, 4 * part)
