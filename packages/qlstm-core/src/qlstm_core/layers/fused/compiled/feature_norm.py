"""Normalisation over features, compiled into the kernels: a mean and a scale for each row and segment.

Moments are arrays ``(rows, segments)``. A side that is not normalised has mean 0 and scale 1.
"""

from __future__ import annotations

from typing import Any

from qlstm_core.kernels.compile import compiled
from qlstm_core.kernels.feature_moments import LAYER, NO_NORM
from qlstm_core.kernels.float_vectors import first, lanes, load, store, total, zero


@compiled(None, forceinline=True)
def standardized(p: Any, row: int, s: int, j: int, inside: Any, mean: Any, scale: Any, m_row: int) -> Any:
    """Return z = (p − mean) · scale."""
    return (load(p, row, s, j, inside) - mean[m_row, s]) * scale[m_row, s]


@compiled(None)
def back(
    d: Any,
    d_row: int,
    p: Any,
    row: int,
    s: int,
    mean: Any,
    scale: Any,
    m_row: int,
    gain: Any,
    norm: int,
    sums: Any,
    kind: int,
) -> None:
    """Turn ``d``, ∂L/∂(gain ⊙ z + bias), into ∂L/∂p, in place; add ``d ⊙ z``, for the gain, to a sum.

    ``∂L/∂p = scale · (w − mean(w) − z · mean(w z))``, ``w = gain ⊙ d``; RMS lacks the first mean.
    """
    if norm == NO_NORM:
        return
    units = p.shape[2]
    count = p.dtype.type(units)
    sum_w, sum_wz = zero(p), zero(p)
    for j in range(0, units, lanes(p)):
        inside = first(p, units - j)
        dz = load(d, d_row, s, j, inside)
        z = standardized(p, row, s, j, inside, mean, scale, m_row)
        g = load(gain, 0, s, j, inside)
        store(sums, kind, s, j, inside, load(sums, kind, s, j, inside) + dz * z)
        sum_w = sum_w + dz * g
        sum_wz = sum_wz + dz * g * z
    mean_w = total(sum_w) / count if norm == LAYER else p.dtype.type(0)
    mean_wz = total(sum_wz) / count
    factor = scale[m_row, s]
    for j in range(0, units, lanes(p)):
        inside = first(p, units - j)
        z = standardized(p, row, s, j, inside, mean, scale, m_row)
        w = load(d, d_row, s, j, inside) * load(gain, 0, s, j, inside)
        store(d, d_row, s, j, inside, (w - mean_w - z * mean_wz) * factor)
