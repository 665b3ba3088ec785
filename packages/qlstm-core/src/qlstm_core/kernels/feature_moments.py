"""Moments of a row's features, inside compiled kernels: what layer and RMS normalisation divide by."""

from __future__ import annotations

from typing import Any

import numpy as np

from qlstm_core.kernels.compile import compiled
from qlstm_core.kernels.float_vectors import first, lanes, load, only, total, zero

NO_NORM, RMS, LAYER = 0, 1, 2
"""Not normalised; without centring; with it."""


@compiled(None)
def moments(p: Any, row: int, s: int, norm: int, eps: float) -> tuple[Any, Any]:
    """Return the mean μ, 0 without centring, and ``1/√(v + eps)``, of segment ``s`` of a row."""
    units = p.shape[2]
    count = p.dtype.type(units)
    mean, scale = p.dtype.type(0), p.dtype.type(1)
    if norm == LAYER:
        # Around the first element, so that the mean of a constant row is exact, and the row becomes 0.
        origin = p[row, s, 0]
        sums = zero(p)
        for j in range(0, units, lanes(p)):
            inside = first(p, units - j)
            sums = sums + only(load(p, row, s, j, inside) - origin, inside)
        mean = origin + total(sums) / count
    if norm != NO_NORM:
        squares = zero(p)
        for j in range(0, units, lanes(p)):
            inside = first(p, units - j)
            centred = load(p, row, s, j, inside) - mean
            squares = squares + only(centred * centred, inside)
        scale = scale / np.sqrt(total(squares) / count + p.dtype.type(eps))
    return mean, scale
