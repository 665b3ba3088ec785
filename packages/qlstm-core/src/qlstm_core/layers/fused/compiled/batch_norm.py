"""Normalisation over the batch, in kernels: a mean and a variance for each step, segment and unit.

Moments are arrays ``(steps, segments, units)``, of which step ``t`` is used. Row r of the batch, from 0 to
``count``, is row ``index[start + r] − base`` of a side's values; all functions act on units ``begin`` to
``end`` of every segment. They go through memory row by row: unit by unit, each row would be on another page.
"""

from __future__ import annotations

from typing import Any

from qlstm_core.kernels.compile import compiled
from qlstm_core.kernels.float_vectors import first, lanes, load, sqrt, store, zero


@compiled(None)
def measure(side: Any, start: int, base: int, count: int, begin: int, end: int, t: int) -> None:
    """Write the mean and the mean squared deviation from it."""
    p, mean, var = side.values, side.mean, side.spread
    size = p.dtype.type(count)
    _fill(mean, t, begin, end)
    for r in range(count):
        row = side.index[start + r] - base
        for s in range(p.shape[1]):
            for j in range(begin, end, lanes(p)):
                inside = first(p, end - j)
                store(mean, t, s, j, inside, load(mean, t, s, j, inside) + load(p, row, s, j, inside))
    _divide(mean, t, begin, end, size)
    _fill(var, t, begin, end)
    for r in range(count):
        row = side.index[start + r] - base
        for s in range(p.shape[1]):
            for j in range(begin, end, lanes(p)):
                inside = first(p, end - j)
                centred = load(p, row, s, j, inside) - load(mean, t, s, j, inside)
                store(var, t, s, j, inside, load(var, t, s, j, inside) + centred * centred)
    _divide(var, t, begin, end, size)


@compiled(None)
def _fill(sums: Any, t: int, begin: int, end: int) -> None:
    for s in range(sums.shape[1]):
        for j in range(begin, end, lanes(sums)):
            store(sums, t, s, j, first(sums, end - j), zero(sums))


@compiled(None)
def _divide(sums: Any, t: int, begin: int, end: int, size: Any) -> None:
    for s in range(sums.shape[1]):
        for j in range(begin, end, lanes(sums)):
            inside = first(sums, end - j)
            store(sums, t, s, j, inside, load(sums, t, s, j, inside) / size)


@compiled(None, forceinline=True)
def scale(side: Any, t: int, s: int, j: int, inside: Any) -> Any:
    """Return ``1/√(v + eps)``."""
    var = side.spread
    return var.dtype.type(1) / sqrt(load(var, t, s, j, inside) + side.eps)


@compiled(None)
def back(
    d: Any, d_row: int, side: Any, start: int, base: int, count: int, begin: int, end: int, t: int,
    sums: Any, bias_kind: int, gain_kind: int, own: Any,
) -> None:  # fmt: skip
    """Turn ``d``, ∂L/∂(gain ⊙ z + bias), into ∂L/∂p, in place; add its sum and that of ``d ⊙ z`` to ``sums``.

    ``∂L/∂p = gain ⊙ scale ⊙ (d − mean(d) − z ⊙ mean(d z))`` over the batch; without the means where moments
    are given. ``own`` has room for three lines: the two sums, and the scale.
    """
    p, mean = side.values, side.mean
    for kind in range(2):
        _fill(own, kind, begin, end)
    for s in range(p.shape[1]):
        for j in range(begin, end, lanes(p)):
            inside = first(p, end - j)
            store(own, 2, s, j, inside, scale(side, t, s, j, inside))
    for r in range(count):
        row = side.index[start + r] - base
        for s in range(p.shape[1]):
            for j in range(begin, end, lanes(p)):
                inside = first(p, end - j)
                z = load(p, row, s, j, inside) - load(mean, t, s, j, inside)
                z = z * load(own, 2, s, j, inside)
                dz = load(d, d_row + r, s, j, inside)
                store(own, 0, s, j, inside, load(own, 0, s, j, inside) + dz)
                store(own, 1, s, j, inside, load(own, 1, s, j, inside) + dz * z)
    part = p.dtype.type(side.norm) / p.dtype.type(count)
    for s in range(p.shape[1]):
        for j in range(begin, end, lanes(p)):
            inside = first(p, end - j)
            sum_d, sum_dz = load(own, 0, s, j, inside), load(own, 1, s, j, inside)
            store(sums, bias_kind, s, j, inside, load(sums, bias_kind, s, j, inside) + sum_d)
            store(sums, gain_kind, s, j, inside, load(sums, gain_kind, s, j, inside) + sum_dz)
            store(own, 0, s, j, inside, sum_d * part)
            store(own, 1, s, j, inside, sum_dz * part)
    for r in range(count):
        row = side.index[start + r] - base
        for s in range(p.shape[1]):
            for j in range(begin, end, lanes(p)):
                inside = first(p, end - j)
                factor = load(own, 2, s, j, inside)
                z = (load(p, row, s, j, inside) - load(mean, t, s, j, inside)) * factor
                rest = load(d, d_row + r, s, j, inside) - load(own, 0, s, j, inside)
                rest = rest - z * load(own, 1, s, j, inside)
                store(d, d_row + r, s, j, inside, rest * factor * load(side.gain, 0, s, j, inside))
