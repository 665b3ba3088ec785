"""The gates of one step, behind the products: normalisation, non-linearities and the new state.

Arguments that the functions share, with S = groups · gates segments, of which segment ``q · gates + k`` is
gate k of group q:
    x, p: the products of the input side and the recurrent side, ``(rows, S, units)``; of x the rows from
        ``first_x`` on.
    affine: the :class:`~qlstm_core.packed.engine.operands.Affine`, of which ``step`` is taken.
    h: ``(rows, groups, units)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qlstm_core.kernels.compile import compiled
from qlstm_core.kernels.fastmath import exp, sigmoid, tanh, tanh_ratio
from qlstm_core.kernels.feature_moments import NO_NORM, moments
from qlstm_core.kernels.float_vectors import at_most, first, lanes, load, store


@compiled(None)
def standardize(p: Any, rows: int, kind: int, eps: Any) -> None:
    """``p = (p − μ) / √(v + eps)``, segment by segment, of the first ``rows`` rows."""
    if kind == NO_NORM:
        return
    for row in range(rows):
        for s in range(p.shape[1]):
            mean, scale = moments(p, row, s, kind, eps)
            for j in range(0, p.shape[2], lanes(p)):
                inside = first(p, p.shape[2] - j)
                store(p, row, s, j, inside, (load(p, row, s, j, inside) - mean) * scale)


@compiled(None, forceinline=True)
def _side(p: Any, row: int, s: int, j: int, inside: Any, factor: Any, step: int) -> Any:
    return load(p, row, s, j, inside) * load(factor, step, s, j, inside)


@compiled(None, forceinline=True)
def _sum(x: Any, from_x: int, p: Any, row: int, s: int, j: int, inside: Any, affine: Any, step: int) -> Any:
    """Return the pre-activation that both sides make together."""
    own = _side(x, from_x, s, j, inside, affine.factor_x, step)
    return own + _side(p, row, s, j, inside, affine.factor_p, step) + load(affine.shift, step, s, j, inside)


@compiled(None, forceinline=True)
def _denominator(x: Any) -> Any:
    """``1 + e^−x``, of which the logistic function is the reciprocal; x counts as −30 at least.

    Divisions take longest here: products of denominators make do with few, and from −30 on stay finite.
    """
    return exp(at_most(-x, np.float32(30))) + np.float32(1)


@compiled(None)
def lstm(
    x: Any, first_x: int, p: Any, rows: int, affine: Any, step: int, moments_c: int, eps_c: Any,
    h: Any, c: Any,
) -> None:  # fmt: skip
    """Write the new state of an LSTM.

    Args:
        moments_c: which moments the cell state is normalised by: ``NO_NORM``, ``RMS`` or ``LAYER``.
        eps_c: added to its variance.
        c: ``(rows, groups, units)``.
    """
    units = p.shape[2]
    plain = affine.factor_c.shape[0] == 0
    for r in range(rows):
        for q in range(c.shape[1]):
            s = 4 * q
            for j in range(0, units, lanes(p)):
                inside = first(p, units - j)
                i = _denominator(_sum(x, first_x + r, p, r, s, j, inside, affine, step))
                f = _denominator(_sum(x, first_x + r, p, r, s + 1, j, inside, affine, step))
                g, under = tanh_ratio(_sum(x, first_x + r, p, r, s + 2, j, inside, affine, step))
                o = _denominator(_sum(x, first_x + r, p, r, s + 3, j, inside, affine, step))
                inner = i * under
                new = (load(c, r, q, j, inside) * inner + f * g) / (f * inner)
                store(c, r, q, j, inside, new)
                if plain:
                    squashed, under = tanh_ratio(new)
                    store(h, r, q, j, inside, squashed / (o * under))
                else:
                    # Until all of the cell state is known, gate o waits in h.
                    store(h, r, q, j, inside, o)
            if plain:
                continue
            mean, scale = moments(c, r, q, moments_c, eps_c)
            for j in range(0, units, lanes(p)):
                inside = first(p, units - j)
                z = (load(c, r, q, j, inside) - mean) * scale
                scaled = z * load(affine.factor_c, step, q, j, inside)
                squashed = tanh(scaled + load(affine.shift_c, step, q, j, inside))
                store(h, r, q, j, inside, squashed / load(h, r, q, j, inside))


@compiled(None)
def gru(x: Any, first_x: int, p: Any, rows: int, affine: Any, step: int, h: Any) -> None:
    """Write the new state of a GRU."""
    units = p.shape[2]
    one = np.float32(1)
    for r in range(rows):
        for j in range(0, units, lanes(p)):
            inside = first(p, units - j)
            reset = sigmoid(_sum(x, first_x + r, p, r, 0, j, inside, affine, step))
            update = _denominator(_sum(x, first_x + r, p, r, 1, j, inside, affine, step))
            own = _side(x, first_x + r, 2, j, inside, affine.factor_x, step)
            own = own + load(affine.shift, step, 2, j, inside)
            past = _side(p, r, 2, j, inside, affine.factor_p, step)
            past = past + load(affine.new_shift, step, 0, j, inside)
            new, under = tanh_ratio(own + reset * past)
            mixed = (update - one) * new + load(h, r, 0, j, inside) * under
            store(h, r, 0, j, inside, mixed / (update * under))
