"""Normalisation over features, compiled into the kernels: a mean and a scale for each row and segment.

A side that is not normalised has mean 0 and scale 1.
"""

from __future__ import annotations

from typing import Any

from qlstm_core.jit import compiled
from qlstm_core.moments import LAYER, NO_NORM
from qlstm_core.vectors import first, lanes, load, store, total, zero


@compiled(None, forceinline=True)
def standardized(values: Any, row: int, s: int, j: int, inside: Any, side: Any, at: int) -> Any:
    """Return z = (values − mean) · scale, with the moments of row ``at`` of the side."""
    return (load(values, row, s, j, inside) - side.mean[at, s]) * side.spread[at, s]


@compiled(None)
def back(d: Any, d_row: int, values: Any, row: int, s: int, side: Any, at: int, sums: Any, kind: int) -> None:
    """Turn ``d``, ∂L/∂(gain ⊙ z + bias), into ∂L/∂values, in place; add ``d ⊙ z``, for the gain, to a sum.

    ``∂L/∂values = scale · (w − mean(w) − z · mean(w z))``, ``w = gain ⊙ d``; RMS lacks the first mean.
    """
    if side.norm == NO_NORM:
        return
    units = values.shape[2]
    count = values.dtype.type(units)
    sum_w, sum_wz = zero(values), zero(values)
    for j in range(0, units, lanes(values)):
        inside = first(values, units - j)
        dz = load(d, d_row, s, j, inside)
        z = standardized(values, row, s, j, inside, side, at)
        g = load(side.gain, 0, s, j, inside)
        store(sums, kind, s, j, inside, load(sums, kind, s, j, inside) + dz * z)
        sum_w = sum_w + dz * g
        sum_wz = sum_wz + dz * g * z
    mean_w = total(sum_w) / count if side.norm == LAYER else values.dtype.type(0)
    mean_wz = total(sum_wz) / count
    factor = side.spread[at, s]
    for j in range(0, units, lanes(values)):
        inside = first(values, units - j)
        z = standardized(values, row, s, j, inside, side, at)
        w = load(d, d_row, s, j, inside) * load(side.gain, 0, s, j, inside)
        store(d, d_row, s, j, inside, (w - mean_w - z * mean_wz) * factor)
