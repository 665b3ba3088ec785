"""Normalisation over the batch, in kernels: a mean and a variance for each step, segment and unit.

Moments are arrays ``(steps, segments, units)``, of which step ``t`` is used. Rows of an array p are
``index[start + r] − base``, r from 0 to ``count``; all functions act on the units that ``j`` and the mask
``inside`` name.
"""

from __future__ import annotations

from typing import Any

from qlstm_core.jit import compiled
from qlstm_core.vectors import load, sqrt, store, zero


@compiled(None)
def measure(
    p: Any,
    index: Any,
    start: int,
    base: int,
    count: int,
    s: int,
    j: int,
    inside: Any,
    mean: Any,
    var: Any,
    t: int,
) -> None:
    """Write the mean and the mean squared deviation from it."""
    size = p.dtype.type(count)
    sums = zero(p)
    for r in range(count):
        sums = sums + load(p, index[start + r] - base, s, j, inside)
    centre = sums / size
    squares = zero(p)
    for r in range(count):
        centred = load(p, index[start + r] - base, s, j, inside) - centre
        squares = squares + centred * centred
    store(mean, t, s, j, inside, centre)
    store(var, t, s, j, inside, squares / size)


@compiled(None, forceinline=True)
def scale(var: Any, t: int, s: int, j: int, inside: Any, eps: float) -> Any:
    """Return ``1/√(v + eps)``."""
    return var.dtype.type(1) / sqrt(load(var, t, s, j, inside) + eps)


@compiled(None)
def back(
    d: Any, d_row: int, p: Any, index: Any, start: int, base: int, count: int, s: int, j: int, inside: Any,
    mean: Any, var: Any, t: int, eps: float, gain: Any, batch: int, sums: Any, bias_kind: int, gain_kind: int,
) -> None:  # fmt: skip
    """Turn ``d``, ∂L/∂(gain ⊙ z + bias), into ∂L/∂p, in place; add its sum and that of ``d ⊙ z`` to ``sums``.

    ``∂L/∂p = gain ⊙ scale ⊙ (d − mean(d) − z ⊙ mean(d z))`` over the batch; without the means where moments
    are given.
    """
    centre = load(mean, t, s, j, inside)
    factor = scale(var, t, s, j, inside, eps)
    sum_d, sum_dz = zero(p), zero(p)
    for r in range(count):
        z = (load(p, index[start + r] - base, s, j, inside) - centre) * factor
        dz = load(d, d_row + r, s, j, inside)
        sum_d = sum_d + dz
        sum_dz = sum_dz + dz * z
    store(sums, bias_kind, s, j, inside, load(sums, bias_kind, s, j, inside) + sum_d)
    store(sums, gain_kind, s, j, inside, load(sums, gain_kind, s, j, inside) + sum_dz)
    part = p.dtype.type(batch) / p.dtype.type(count)
    sum_d, sum_dz = sum_d * part, sum_dz * part
    outer = factor * load(gain, 0, s, j, inside)
    for r in range(count):
        z = (load(p, index[start + r] - base, s, j, inside) - centre) * factor
        dz = load(d, d_row + r, s, j, inside)
        store(d, d_row + r, s, j, inside, outer * (dz - sum_d - z * sum_dz))
